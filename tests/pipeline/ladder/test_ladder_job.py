"""The ladder: the same compute for each rung, and a table and a picture that say what was found."""

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from pydantic import ValidationError
from small_models import FAMILIES, write_model

from pipeline.config.rungs import LadderConfig
from pipeline.config.sample import SampleConfig
from pipeline.errors import InputError
from pipeline.ladder.plan import plan_ladder
from pipeline.ladder.report import ladder_figure, markdown
from pipeline.ladder.result import RungResult, as_json, training_seconds
from pipeline.sampling.draw import Claimed
from pipeline.sampling.finish import finish_set
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.plan import load_for, plan_set


@pytest.fixture
def ladder(pack: Callable[..., str], tmp_path: Path) -> Callable[..., LadderConfig]:
    """ladder(teraflops=…): a configuration of all families on a tiny set."""
    data = pack(tmp_path / "set")

    def make(**changes: Any) -> LadderConfig:
        rungs = {name: {"title": name.upper(), "model": model} for name, model in FAMILIES.items()}
        fields = {
            "root": str(tmp_path), "teraflops": 0.01, "rungs": rungs, "test": data,
            "data": {"train": data, "batch_size": 8},
        }  # fmt: skip
        return LadderConfig.model_validate(fields | changes)

    return make


def test_each_rung_takes_the_compute_asked_for_up_to_a_step(ladder: Any) -> None:
    """FLOPs of an image x images of a step x steps; more compute is more steps of the same runs."""
    plan = plan_ladder(ladder())
    assert [rung.name for rung in plan.rungs] == list(FAMILIES)
    assert len({rung.training.steps for rung in plan.rungs}) > 1
    for rung, twice in zip(plan.rungs, plan_ladder(ladder(teraflops=0.02)).rungs, strict=True):
        step = rung.image_flops * 8 / 1e12
        assert abs(rung.teraflops - 0.01) <= step / 2
        assert rung.training.model == twice.training.model
        assert twice.training.steps == pytest.approx(2 * rung.training.steps, abs=1)
        assert f"{rung.training.steps:,} steps" in plan.text()


def test_a_rung_that_cannot_be_trained_is_named(ladder: Any) -> None:
    wrong = {"vae": {"title": "VAE", "model": {"kind": "vae", "widths": [8, 8, 8, 8, 8]}}}
    with pytest.raises(InputError, match=r"rungs\.vae: model\.widths: .* do not divide by 16"):
        plan_ladder(ladder(rungs=wrong))


def test_bounds_with_and_without_classes_do_not_compare(ladder: Any) -> None:
    rungs = {
        name: {"title": name, "model": FAMILIES[name] | {"conditional": name == "vae"}}
        for name in ("vae", "hvae")
    }
    with pytest.raises(ValidationError, match=r"set model\.conditional alike"):
        ladder(rungs=rungs)


def test_only_a_walk_is_told_how_to_walk(ladder: Any) -> None:
    """A VAE's request for samples has no sampler in it, which it would refuse."""
    config = ladder(sample_steps=5)
    assert "steps" not in config.samples("hvae").model_fields_set
    assert config.samples("latent_vdm").steps == config.samples("vdm").steps == 5


def test_seconds_of_training_are_those_of_its_steps_once(tmp_path: Path) -> None:
    """Steps 1 to 10 at 2 s, and 11 to 20, computed again after a restart, at 1 s."""
    records = [(10, 2.0), (20, 7.0), (20, 1.0)]
    lines = [{"step": s, "time": 0, "values": {"train/step_seconds": v}} for s, v in records]
    journal = tmp_path / "journal.jsonl"
    journal.write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert training_seconds(str(journal)) == pytest.approx(30.0)


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> list[RungResult]:
    """A hierarchical VAE and a VDM of latents, with a set of samples."""
    folder = tmp_path_factory.mktemp("rows")
    model = write_model(folder / "model", "vae")
    config = SampleConfig(model=model, output=str(folder / "set"), per_class=3)
    claimed = Claimed(plan_set(config, load_for(config)), 0)
    claimed.open_for_writing()
    generator = ShardGenerator([claimed.cell()], claimed.plan.model.place.url)
    for task in claimed.missing:
        generator(asdict(task))
    finish_set(claimed.plan, Claimed(claimed.plan, 0).done)
    first = RungResult(
        name="hvae", title="Hierarchical", bits_per_dim=3.5, standard_error=0.02,
        terms={"reconstruction": 3.0, "prior": 0.1, "kl_1": 0.3, "kl_2": 0.1}, parameters=12345,
        steps=77, teraflops=1.5, worker_seconds=9.0, evaluations=1, samples_per_second=123.0,
        images=10, data_digest="d" * 64, samples=str(folder / "set"),
    )  # fmt: skip
    terms = {
        "reconstruction": 2.5, "encoder": -0.5, "latent": 0.1, "prior": 0.2, "diffusion": 0.9
    }  # fmt: skip
    return [first, replace(first, name="l", title="Latents", bits_per_dim=3.2, terms=terms)]


def test_the_table_has_every_level_and_every_cost(rows: list[RungResult]) -> None:
    _, _, line, other, *_ = markdown(rows).splitlines()
    for text in ("3.500 ± 0.020", "rec 3.000, prior 0.100, kl 1 0.300", "12,345", "77", "123"):
        assert text in line
    assert "encoder -0.500, latent 0.100" in other
    assert json.loads(as_json(rows))["rungs"][0]["terms"]["kl_2"] == 0.1


def test_the_picture_stacks_each_bound_to_its_total_beside_its_samples(
    rows: list[RungResult],
) -> None:
    """What of a VDM of latents may be negative is one bar with what it belongs to."""
    figure = ladder_figure(rows)
    assert isinstance(figure, Figure)
    *strips, bars = figure.axes
    rows_and_columns = (2 * 10 + 2, 3 * 10 + 2)  # images of 8 x 8, 2 pixels apart, 8 times as large
    expected = tuple(8 * side for side in rows_and_columns)
    assert [panel.images[0].get_size() for panel in strips] == [expected] * 2
    widths: dict[int, list[float]] = {0: [], 1: []}
    for bar in bars.patches:
        widths[round(bar.get_y() + bar.get_height() / 2)].append(bar.get_width())
    assert sum(widths[0]) == pytest.approx(3.5)
    assert sum(widths[1]) == pytest.approx(3.2)
    assert sorted(widths[1]) == pytest.approx([0.2, 0.5, 2.5])
