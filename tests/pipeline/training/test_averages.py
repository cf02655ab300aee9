"""Averages of a run at every ZeRO stage: exact, unbroken, and enough to make others from."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stored_run import averaged

from pipeline.checkpoint.read import open_checkpoint
from pipeline.checkpoint.record import SNAPSHOTS, committed
from pipeline.config.average import AverageConfig
from pipeline.model.export import load_model
from pipeline.storage import open_storage
from vdm_core.ema_power import power_exponent

STAGES = (0, 1, 2, 3)
EMA = [AverageConfig(decay=0.8), AverageConfig(width=0.05), AverageConfig(width=0.1)]
STEPS, EVERY = 16, 2


@pytest.fixture(scope="module")
def runs(launch: Any, configure: Any, pack: Any, tmp_path_factory: Any) -> Any:
    """Two gloo ranks, a run at each stage, and one that stops after step 7 and goes on."""
    folder = tmp_path_factory.mktemp("averages")
    base = [
        f"data.train={pack(folder / 'set')}", f"steps={STEPS}", "cluster.workers=2",
        "optimizer.ema=[{decay: 0.8}, {width: 0.05}, {width: 0.1}]",
        f"checkpoint={{every_steps: {STEPS}, ema_every: {EVERY}}}", "tracking.log_every=1",
    ]  # fmt: skip
    configs = {f"{s}": configure(folder, *base, f"deepspeed.zero_stage={s}") for s in STAGES}
    return launch("average_ranks", 2, folder, **configs) | {"folder": folder}


def path_of(run: Any) -> list[Any]:
    """The parameters after each step, float64."""
    return [{name: value.double() for name, value in weights.items()} for weights in run["path"]]


@pytest.mark.parametrize("average", EMA, ids=lambda average: average.name)
@pytest.mark.parametrize("stage", STAGES)
def test_every_average_is_that_of_the_weights_on_the_way(
    runs: Any, stage: int, average: AverageConfig
) -> None:
    """One process, float64, whole tensors: what two ranks kept in shares, and what is loaded."""
    run = runs[f"{stage}"]
    expected = averaged(path_of(run), average)[-1]
    checkpoint = open_storage(f"{runs['folder']}/{stage}/checkpoint_{STEPS:09d}")
    loaded = load_model(checkpoint, average)[0].state_dict()
    for name, value in run["averages"][average.name].items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-7)
        assert torch.equal(loaded[name], value)


def test_a_run_that_stopped_and_went_on_has_the_same_averages(runs: Any) -> None:
    """Those at the end and every snapshot, bit for bit."""
    whole, second = runs["1"], runs["interrupted"]
    assert second["first"] == 7
    for average, tensors in whole["averages"].items():
        assert all(torch.equal(second["averages"][average][n], v) for n, v in tensors.items())
    for step in range(EVERY, STEPS + 1, EVERY):
        for width in ("width_0.05", "width_0.1"):
            one, two = (snapshot(runs["folder"] / run, step, width) for run in ("1", "interrupted"))
            assert all(torch.equal(one[name], value) for name, value in two.items())


def snapshot(run: Path, step: int, average: str) -> dict[str, torch.Tensor]:
    """A stored average."""
    folder = open_storage(str(run / SNAPSHOTS / f"checkpoint_{step:09d}"))
    return open_checkpoint(folder).whole(f"ema/{average}")


@pytest.mark.parametrize("stage", STAGES)
def test_snapshots_hold_widths_alone_and_all_stay(runs: Any, stage: int) -> None:
    snapshots = open_storage(f"{runs['folder']}/{stage}/{SNAPSHOTS}")
    found = committed(snapshots)
    assert [record.step for _, record in found] == [*range(STEPS, 0, -EVERY)]
    for name, _ in found:
        kinds = open_checkpoint(snapshots / name).index.kinds
        assert kinds == ("ema/width_0.05", "ema/width_0.1")


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("width", [0.07, 0.13])
def test_another_width_is_made_to_within_its_stated_error(
    runs: Any, stage: int, width: float
) -> None:
    """Eight snapshots: the profile to within 3 %, and the weights within what follows from it."""
    checkpoint = open_storage(f"{runs['folder']}/{stage}/checkpoint_{STEPS:09d}")
    vdm, card = load_model(checkpoint, AverageConfig(width=width))
    assert card.average.post_hoc_averages == 2 * STEPS // EVERY
    assert card.average.post_hoc_error is not None
    assert 1e-3 < card.average.post_hoc_error < 0.03
    path = path_of(runs[f"{stage}"])
    direct = averaged(path, AverageConfig(width=width))[-1]
    k = power_exponent(width)
    reach = card.average.post_hoc_error * (k + 1) / ((2 * k + 1) * STEPS) ** 0.5
    for name, value in vdm.named_parameters():
        along = torch.stack([weights[name] for weights in path])
        bound = reach * (along - along.mean(0)).norm(dim=0)
        assert ((value - direct[name]).abs() <= bound + 1e-6).all(), name
