"""The figures beside the default bound: they are the library's, image by image, however cut."""

import itertools
import json
import math

import pytest
import torch

from pipeline.cluster.kept_ranges import Range
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.model import DownsamplingUNetConfig, ModelConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.stream import iterate_once
from pipeline.errors import InputError
from pipeline.evaluation.bounds import bound_steps, check_figures, profile_gammas
from pipeline.evaluation.evaluate import ImageTerms, LikelihoodEvaluator
from pipeline.evaluation.profile_report import profile_figure, profile_table
from pipeline.evaluation.summary import (
    image_table,
    profile_errors,
    summarise,
    summarise_figure,
    summarise_profile,
)
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, export_bytes
from pipeline.storage import open_storage
from vdm_core.likelihood import (
    DormandPrince,
    continuous_bound,
    discrete_bound,
    importance_weighted_bound,
    ode_nll,
    profile_loss,
)

SHAPE, CLASSES, IMAGES, DIMS = (1, 8, 8), 3, 6, 64
NETWORK = DownsamplingUNetConfig(
    kind="downsampling_unet", width=8, multipliers=(1, 2), blocks=1, fourier_features=False
)
ADAPTIVE = {"kind": "adaptive", "latent_dim": 3, "width": 4}
ALL = {
    "compute": ["profile", "ode", "discrete", "continuous", "importance"],
    "steps": 3,
    "continuous_draws": 4,
    "importance_draws": 2,
    "profile_points": 5,
    "ode_tolerance": 1e-4,
}


def card_of(**model) -> ModelCard:
    config = ModelConfig(network=NETWORK, **model)
    return ModelCard(
        model=config, shape=SHAPE, levels=256, classes=CLASSES, class_names=("a", "b", "c"),
        step=1, run="toy", mlflow_run_id=None, dataset_digest="",
    )  # fmt: skip


@pytest.fixture(scope="module")
def evaluate(pack, tmp_path_factory):
    """evaluate(bounds, cuts=…, schedule=…): the images' terms, and the evaluator."""
    data = pack(tmp_path_factory.mktemp("data") / "set", samples=IMAGES)

    def run(bounds, cuts=(0, IMAGES), batch_size=IMAGES, **model):
        card = card_of(**model)
        vdm = build_vdm(card.model, SHAPE, CLASSES, seed=0, levels=256)
        generator = torch.Generator().manual_seed(1)
        with torch.no_grad():
            for name, parameter in vdm.named_parameters():
                if not name.startswith("schedule.ends"):
                    parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
        folder = tmp_path_factory.mktemp("model")
        for name, content in export_bytes(vdm.state_dict(), card).items():
            (open_storage(str(folder)) / name).write_bytes(content)
        config = EvaluateConfig(
            model=str(folder), data=data, draws=2, seed=3, bounds=bounds, batch_size=batch_size
        )
        made = LikelihoodEvaluator(config, str(folder))
        ranges = [Range(a, b) for a, b in itertools.pairwise(cuts)]
        tables = [made(places) for places in reversed(ranges)]
        rows = [ImageTerms(**row) for table in tables for row in table.to_pylist()]
        return sorted(rows, key=lambda row: row.index), made

    return run


@pytest.fixture(scope="module")
def everything(evaluate):
    return evaluate(ALL)


def test_figures_are_the_library_s(everything):
    """Each image has its own draws, those of its place in the split."""
    results, made = everything
    (batch,) = iterate_once(open_dataset(made.config.data), batch_size=IMAGES)
    given = (made.model, batch.images, torch.arange(IMAGES), batch.labels)
    expected = {
        "discrete": discrete_bound(*given, steps=3, seed=3).total,
        "continuous": continuous_bound(*given, draws=4, seed=3).total,
        "ode": ode_nll(*given, solver=DormandPrince(1e-4, 1e-4), seed=3),
        "importance": importance_weighted_bound(*given, steps=3, draws=2, seed=3),
    }
    table = image_table(results, DIMS, {"seed": 3}).to_pydict()
    for name, values in expected.items():
        assert table[name] == pytest.approx(values.tolist(), rel=1e-6)
        mean, error = summarise_figure(results, DIMS, name)
        bits = values.double() / (DIMS * math.log(2))
        assert table[f"{name}_bits_per_dim"] == pytest.approx(bits.tolist(), rel=1e-6)
        assert mean.item() == pytest.approx(bits.mean().item(), rel=1e-6)
        assert error.item() == pytest.approx(bits.std().item() / IMAGES**0.5, rel=1e-5)


def test_figures_do_not_depend_on_cut_or_batch_size(evaluate, everything):
    whole, _ = everything
    others, _ = evaluate(ALL, cuts=(0, 1, 4, IMAGES), batch_size=2)
    for one, other in zip(whole, others, strict=True):
        assert one.key == other.key
        for name in ("discrete", "continuous", "importance"):
            assert getattr(other, name) == pytest.approx(getattr(one, name), rel=1e-5)
        assert other.ode == pytest.approx(one.ode, rel=1e-3)  # the solver's tolerance
        assert other.profile == pytest.approx(one.profile, rel=1e-4)


def test_the_profile_has_the_models_ends_and_its_area_is_the_diffusion_term(everything):
    results, made = everything
    gammas = profile_gammas(made.model, 5)
    assert (gammas[0].item(), gammas[-1].item()) == pytest.approx((-13.3, 5.0), abs=1e-5)
    profile = summarise_profile(results, gammas, DIMS)
    area = profile_loss(gammas, profile_errors(results)).mean().item() / (DIMS * math.log(2))
    assert torch.trapezoid(profile.integrand.mean, gammas).item() == pytest.approx(area)
    table = profile_table(profile).to_pydict()
    assert table["gamma"] == gammas.tolist()
    assert table["bits_per_dim_per_gamma"] == profile.integrand.mean.tolist()
    assert table["squared_error_standard_error"] == profile.error.standard_error.tolist()
    (panel,) = profile_figure(profile).axes
    assert list(panel.lines[0].get_ydata()) == profile.integrand.mean.tolist()
    assert f"area {area:.3f} bits/dim" in panel.get_title()


def test_an_adaptive_model_has_a_fourth_term_everywhere(evaluate):
    """The latent's KL counts, in the default bound and in the further ones."""
    results, _ = evaluate({"compute": ["discrete"], "steps": 2}, schedule=ADAPTIVE)
    summary = summarise(results, DIMS)
    assert list(summary.terms) == ["reconstruction", "prior", "diffusion", "auxiliary"]
    assert summary.terms["auxiliary"] > 0
    assert summary.bits_per_dim == pytest.approx(sum(summary.terms.values()))
    again, _ = evaluate({}, cuts=(0, 2, IMAGES), batch_size=3, schedule=ADAPTIVE)
    for term in ("auxiliary", "diffusion"):
        expected = [result.terms[term] for result in results]
        assert [result.terms[term] for result in again] == pytest.approx(expected, rel=1e-4)


def test_what_was_not_asked_for_is_not_in_the_table(evaluate):
    results, _ = evaluate({})
    terms = ["reconstruction", "prior", "diffusion"]
    table = image_table(results, DIMS, {})
    bits = [f"{name}_bits_per_dim" for name in (*terms, "total")]
    assert table.column_names == ["index", "key", "label", *terms, "total", *bits]
    assert list(summarise(results, DIMS).terms) == terms


def test_the_table_of_images_says_what_its_figures_depend_on(evaluate):
    """Whoever finds the file alone can tell which model, data and T it is of."""
    results, _ = evaluate({})
    described = image_table(results, DIMS, {"weights_sha256": "w", "steps": 7}).schema.metadata
    assert json.loads(described[b"request"]) == {"weights_sha256": "w", "steps": 7}
    assert described[b"dims"] == b"64"


@pytest.mark.parametrize(
    ("bounds", "model", "message"),
    [
        ({"compute": ["discrete"]}, {}, "discrete is a bound of T steps, .* set bounds.steps"),
        ({"compute": ["importance"]}, {}, "importance is a bound of T steps"),
        ({"compute": ["ode"]}, {"schedule": ADAPTIVE}, "ode needs one γ for all pixels"),
        (
            {"compute": ["profile"]},
            {"schedule": {"kind": "multivariate"}},
            r"profile needs one γ .*\(multivariate\)",
        ),
    ],
)
def test_what_the_model_cannot_be_asked_is_refused(bounds, model, message):
    with pytest.raises(InputError, match=message):
        check_figures(EvaluateConfig(model="m", data="d", bounds=bounds), card_of(**model))


def test_t_is_the_bounds_own_else_the_evaluations_else_the_models():
    card = card_of(steps=9)
    for own, of_request, expected in ((2, 5, 2), (None, 5, 5), (None, None, 9)):
        bounds = {"compute": ["discrete"], "steps": own}
        config = EvaluateConfig(model="m", data="d", steps=of_request, bounds=bounds)
        check_figures(config, card)
        assert bound_steps(config, card) == expected
