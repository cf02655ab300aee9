"""Every family is evaluated by the same job: its own terms, each image once, by its place."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from small_models import SHAPE, write_model

from pipeline.cluster.kept_ranges import Range
from pipeline.config.evaluate import EvaluateConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.stream import iterate_once
from pipeline.errors import InputError
from pipeline.evaluation.evaluate import ImageTerms, LikelihoodEvaluator
from pipeline.evaluation.plan import make_plans
from pipeline.evaluation.run import make_report
from pipeline.model.export import load_model
from pipeline.storage import open_storage
from vdm_core.rng import Purpose, normal, stratified_times

IMAGES, DRAWS = 6, 2
OTHERS = ("vae", "hvae", "mhvae", "latent_vdm")


@pytest.fixture(scope="module")
def data(pack: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    return pack(tmp_path_factory.mktemp("data") / "set", samples=IMAGES)


@pytest.mark.parametrize("name", OTHERS)
def test_the_terms_are_the_models_at_draws_of_the_images_places(
    name: str, data: str, tmp_path: Path
) -> None:
    """In whatever pieces: means over draws that belong to (seed, place, draw)."""
    folder = write_model(tmp_path, name)
    config = EvaluateConfig(model=folder, data=data, draws=DRAWS, seed=3, batch_size=4)
    made = LikelihoodEvaluator(config, folder)
    tables = [made(Range(2, IMAGES)), made(Range(0, 2))]
    rows = sorted((ImageTerms(**r) for t in tables for r in t.to_pylist()), key=lambda r: r.index)
    model, _ = load_model(open_storage(folder))
    (batch,) = iterate_once(open_dataset(data), batch_size=IMAGES)
    places, expected = torch.arange(IMAGES), torch.zeros(IMAGES, len(model.term_names))
    for draw in range(DRAWS):
        draws = {
            key: stratified_times(3, places + draw * IMAGES, IMAGES * DRAWS)
            if need.purpose is Purpose.TIMES
            else normal(3, need.purpose, places, need.shape, step=draw)
            for key, need in model.draws(SHAPE).items()
        }
        with torch.no_grad():
            terms = model(batch.images, batch.labels, **draws).named()
        expected += torch.stack([*terms.values()], dim=1) / DRAWS
    assert [tuple(row.terms) for row in rows] == [model.term_names] * IMAGES
    found = torch.tensor([[*row.terms.values()] for row in rows])
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-3)


def test_the_report_has_each_level_of_a_hierarchy(data: str, tmp_path: Path) -> None:
    """By name, with standard errors, adding up to the bound; and it says how many latents."""
    folder = write_model(tmp_path / "m", "hvae")
    config = EvaluateConfig(model=folder, data=data, output=str(tmp_path / "out"))
    (plan,) = make_plans(config)
    made = LikelihoodEvaluator(plan.config, folder)
    results = made.images(Range(0, IMAGES))
    report = json.loads(make_report(plan, results).model_dump_json())
    assert [*report["bound"]["terms"]] == ["reconstruction", "prior", "kl_1", "kl_2"]
    total = sum(report["bound"]["terms"].values())
    assert report["bound"]["bits_per_dim"] == pytest.approx(total)
    assert report["time"] == "3 latents"
    assert "3 latents" in plan.text()


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("vae", {"steps": 10}, "steps=10: vae is a vae, which has no time"),
        ("hvae", {"bounds": {"compute": ["continuous"]}}, "continuous are figures of a VDM"),
        ("latent_vdm", {"bounds": {"compute": ["ode", "profile"]}}, "ode, profile are figures"),
    ],
)
def test_figures_that_a_family_has_not_are_refused(
    name: str, changes: dict[str, Any], message: str, data: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path, name)
    with pytest.raises(InputError, match=message):
        make_plans(EvaluateConfig(model=folder, data=data, **changes))


def test_steps_of_a_vdm_of_latents_are_those_of_its_vdm(data: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path, "latent_vdm")
    config = EvaluateConfig(model=folder, data=data, steps=7)
    assert make_plans(config)[0].time == "T = 7, of latents"
    assert LikelihoodEvaluator(config, folder).model.vdm.steps == 7
