"""Bits/dim of a split: against closed forms, and the same however the work is cut."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from pipeline.cluster.kept_ranges import Range
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.model import DownsamplingUNetConfig, ModelConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.stream import iterate_once
from pipeline.errors import InputError
from pipeline.evaluation.evaluate import ImageTerms, LikelihoodEvaluator
from pipeline.evaluation.summary import summarise
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, export_bytes
from pipeline.storage import open_storage
from vdm_core.rng import Purpose, normal

SHAPE, CLASSES, IMAGES, DIMS = (1, 8, 8), 3, 24, 64
GAMMA_0, GAMMA_1 = -13.3, 5.0
NETWORK = DownsamplingUNetConfig(kind="downsampling_unet", width=8, multipliers=(1, 2), blocks=1)


class Zero(torch.nn.Module):
    """A network that always answers 0."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[torch.Tensor | None] = []

    def forward(self, z, gamma, labels=None):
        self.asked.append(labels)
        return torch.zeros_like(z)


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    """export(setting=…): the folder of a fresh model, which answers z: epsilon_hat = z."""

    def write(noisy: bool = False, **model) -> str:
        config = ModelConfig(network=NETWORK, **model)
        vdm = build_vdm(config, SHAPE, CLASSES, seed=0, levels=256)
        if noisy:  # an answer that depends on everything
            generator = torch.Generator().manual_seed(1)
            with torch.no_grad():
                for parameter in vdm.network.parameters():
                    parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        card = ModelCard(
            model=config, shape=SHAPE, levels=256, classes=CLASSES, class_names=("a", "b", "c"),
            step=1, run="toy", mlflow_run_id=None, dataset_digest="",
        )  # fmt: skip
        folder = tmp_path_factory.mktemp("model")
        for name, data in export_bytes(vdm.state_dict(), card).items():
            (open_storage(str(folder)) / name).write_bytes(data)
        return str(folder)

    return write


@pytest.fixture(scope="module")
def data(pack, tmp_path_factory) -> str:
    return pack(tmp_path_factory.mktemp("data") / "set", samples=IMAGES)


def evaluator(model: str, data: str, network=None, **changes) -> LikelihoodEvaluator:
    config = EvaluateConfig(model=model, data=data, **({"draws": 2} | changes))
    made = LikelihoodEvaluator(config, model)
    made.model.network = network or made.model.network
    return made


def terms(made: LikelihoodEvaluator, cuts=(0, IMAGES)) -> list[ImageTerms]:
    """The images' terms when the split is cut at `cuts`, in the order of the split."""
    ranges = [Range(a, b) for a, b in itertools.pairwise(cuts)]
    rows = [image for places in reversed(ranges) for image in made.images(places)]
    return sorted(rows, key=lambda row: row.index)


def column(results: list[ImageTerms], name: str) -> np.ndarray:
    return np.array([result.nats(name) for result in results])


def images_in(data: str) -> torch.Tensor:
    (batch,) = iterate_once(open_dataset(data), batch_size=IMAGES)
    return batch.images.double()


def test_a_network_that_answers_zero_pays_half_the_range_of_gamma_times_the_noise(export, data):
    """Diffusion term = (gamma_1 - gamma_0) / 2 |epsilon|^2, exactly, with a straight schedule."""
    results = terms(evaluator(export(), data, Zero(), seed=3))
    indices = torch.arange(IMAGES)
    noise = [
        normal(3, Purpose.NOISE, indices, SHAPE, step=draw, dtype=torch.float64)
        for draw in range(2)
    ]
    squares = torch.stack(noise).square().flatten(2).sum(2).mean(0).numpy()
    expected = (GAMMA_1 - GAMMA_0) / 2 * squares
    assert column(results, "diffusion") == pytest.approx(expected, rel=1e-5)


def test_prior_is_the_closed_form_kl(export, data):
    x = (2 * (images_in(data) + 0.5) / 256 - 1).flatten(1)
    alpha2, sigma2 = 1 / (1 + math.exp(GAMMA_1)), 1 / (1 + math.exp(-GAMMA_1))
    expected = 0.5 * (alpha2 * x**2 + sigma2 - 1 - math.log(sigma2)).sum(1)
    results = terms(evaluator(export(), data, Zero()))
    assert column(results, "prior") == pytest.approx(expected.numpy(), rel=1e-4)


def test_a_fresh_model_costs_what_the_integral_over_gamma_says(export, data):
    """With epsilon_hat = z the mean over the split is an integral known in closed form.

    E|epsilon - z|^2 = (1 - sigma)^2 D + alpha^2 |x|^2, and times and noises average it well.
    """
    x = (2 * (images_in(data) + 0.5) / 256 - 1).flatten(1)
    square = x.square().sum(1).mean().item()

    def integrand(gamma):
        sigma2 = 1 / (1 + math.exp(-gamma))
        return 0.5 * ((1 - math.sqrt(sigma2)) ** 2 * DIMS + (1 - sigma2) * square)

    expected, _ = quad(integrand, GAMMA_0, GAMMA_1)
    results = terms(evaluator(export(), data, draws=64))
    assert column(results, "diffusion").mean() == pytest.approx(expected, rel=0.01)


def test_the_result_does_not_depend_on_cut_or_batch_size(export, data):
    """Each image keeps its times and noises, whoever evaluates it and beside whom."""
    model = export(noisy=True)
    whole = terms(evaluator(model, data, batch_size=IMAGES))
    for batch_size, cuts in ((1, (0, IMAGES)), (5, (0, 7, 8, 20, IMAGES)), (7, (0, 12, IMAGES))):
        others = terms(evaluator(model, data, batch_size=batch_size), cuts)
        assert [(r.index, r.key, r.label) for r in others] == [
            (r.index, r.key, r.label) for r in whole
        ]
        for name in ("reconstruction", "prior", "diffusion"):
            assert column(others, name) == pytest.approx(column(whole, name), rel=1e-5, abs=1e-5)
        assert summarise(others, DIMS).bits_per_dim == pytest.approx(
            summarise(whole, DIMS).bits_per_dim, rel=1e-6
        )


def test_every_image_comes_exactly_once_with_its_key_and_label(export, data):
    results = terms(evaluator(export(), data), cuts=(0, 5, 6, IMAGES))
    assert [r.index for r in results] == list(range(IMAGES))
    assert len({r.key for r in results}) == IMAGES
    dataset = open_dataset(data)
    labels = torch.cat([batch.labels for batch in iterate_once(dataset, batch_size=9)])
    assert [r.label for r in results] == labels.tolist()


def test_draws_and_seed_change_the_noise(export, data):
    model = export()
    results = [
        column(terms(evaluator(model, data, **change)), "diffusion")
        for change in ({}, {"seed": 1}, {"draws": 3})
    ]
    assert not np.allclose(results[0], results[1])
    assert not np.allclose(results[0], results[2])


def test_more_steps_come_closer_to_continuous_time_from_above(export, data):
    """The extra cost of T steps falls like 1/T (Kingma et al. 2021, section 4.2)."""
    model = export()
    known = [  # the same times and noises each
        column(terms(evaluator(model, data, draws=64, steps=steps)), "diffusion").mean()
        for steps in (50, 100, 200)
    ]
    limit = column(terms(evaluator(model, data, draws=64)), "diffusion").mean()
    excess = [value - limit for value in known]
    assert all(more > 0 for more in excess)
    assert excess[0] / excess[1] == pytest.approx(2, rel=0.25)
    assert excess[1] / excess[2] == pytest.approx(2, rel=0.25)


def test_labels_reach_a_conditional_model_only(export, data):
    conditional, plain = Zero(), Zero()
    terms(evaluator(export(), data, conditional))
    terms(evaluator(export(conditional=False), data, plain))
    assert all(labels is not None for labels in conditional.asked)
    assert all(labels is None for labels in plain.asked)


def test_a_bad_record_is_an_error_that_names_shard_and_key(export, pack, tmp_path: Path):
    broken = pack(tmp_path / "broken", samples=6, broken=(2,))
    with pytest.raises(InputError, match=r"s0\.tar/000002"):
        terms(evaluator(export(), broken), cuts=(0, 6))


def some_terms(values: np.ndarray) -> list[ImageTerms]:
    names = ("reconstruction", "prior", "diffusion")
    rows = [dict(zip(names, row, strict=True)) for row in values.tolist()]
    return [ImageTerms(i, f"k{i}", None, row) for i, row in enumerate(rows)]


def test_summary_is_mean_and_standard_error_in_bits_per_dim():
    """Against numpy in float64: std with N - 1, over the square root of N."""
    nats = np.random.default_rng(0).gamma(2.0, 50.0, (100, 3))
    bits = nats / (DIMS * np.log(2))
    summary = summarise(some_terms(nats), DIMS)
    assert summary.images == 100
    assert summary.bits_per_dim == pytest.approx(bits.sum(1).mean(), rel=1e-12)
    assert summary.standard_error == pytest.approx(bits.sum(1).std(ddof=1) / 10, rel=1e-12)
    assert [*summary.terms.values()] == pytest.approx(bits.mean(0), rel=1e-12)


def test_a_bound_that_is_not_finite_is_no_result():
    values = np.ones((3, 3))
    values[1, 2] = np.nan
    with pytest.raises(FloatingPointError, match=r"1 of 3 images .* k1"):
        summarise(some_terms(values), DIMS)


def test_one_image_has_no_standard_error():
    with pytest.raises(ValueError, match="needs 2 or more"):
        summarise(some_terms(np.ones((1, 3))), DIMS)
