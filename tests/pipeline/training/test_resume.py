"""A run goes on at any ZeRO stage and on any number of workers as if nothing had changed."""

from typing import Any

import pytest
import torch

from pipeline.config.load import load_config
from pipeline.config.train import TrainConfig
from pipeline.model.export import load_model, newest_model
from pipeline.storage import open_storage

pytestmark = pytest.mark.slow
WAY = [(2, 0), (2, 1), (2, 2), (2, 3), (1, 2), (1, 0), (2, 3), (2, 0)]
"""Workers and ZeRO stage of each leg of the run; two steps each."""
LAUNCHES = [(0, 4), (4, 6), (6, 8)]
STEPS = 2 * len(WAY)
OFFLOAD = "deepspeed.config={zero_optimization: {offload_optimizer: {device: cpu}}}"
PRECISIONS = ("float32", "bfloat16")


@pytest.fixture(scope="module")
def runs(launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The legs of a run all over the place, of one left alone, and of one with offload."""
    folder = tmp_path_factory.mktemp("resume")

    def config(workers: int, stage: int, precision: str, *more: str) -> TrainConfig:
        base = [
            *("name=resume", "seed=5", f"steps={STEPS}", f"root={folder}"),
            "data={train: none, batch_size: 8, micro_batch: 2}",
            "model.network={kind: downsampling_unet, width: 8, multipliers: [1, 2], blocks: 1}",
            "optimizer={learning_rate: 1e-3, warmup_steps: 3, decay: cosine, ema: [{decay: 0.9}]}",
            *(f"cluster.workers={workers}", f"deepspeed.zero_stage={stage}"),
            f"deepspeed.precision={precision}",
        ]
        return load_config(TrainConfig, [], [*base, *more])

    found: dict[str, list[Any]] = {name: [] for name in PRECISIONS}
    for number, (first, end) in enumerate(LAUNCHES):
        legs = {
            name: [
                (f"{folder}/{name}", config(*WAY[n], name), 2 * n + 2) for n in range(first, end)
            ]
            for name in PRECISIONS
        }
        if number == 0:
            legs |= {
                f"undisturbed {name}": [(f"{folder}/left {name}", config(2, 1, name), STEPS)]
                for name in PRECISIONS
            }
            legs["offload"] = [
                (f"{folder}/offload", config(2, stage, "float32", OFFLOAD), 2 * stage)
                for stage in (1, 2, 3)
            ]
        workers = WAY[first][0]
        done = launch("resume_ranks", workers, folder / f"launch-{number}", legs=legs)
        for name, results in done.items():
            found.setdefault(name, []).extend(results)
    return found | {"folder": folder}


def together(legs: list[Any], name: str) -> list[float]:
    """One series over all legs."""
    return [value for leg in legs for value in leg[name]]


@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_any_topology_goes_on_after_any_other(runs: Any, precision: str, tolerance: float) -> None:
    """Losses, gradient norms, learning rates and weights are those of the run left alone.

    In bfloat16 another cut of the batch rounds other partial sums.
    """
    way, (left,) = runs[precision], runs[f"undisturbed {precision}"]
    assert together(way, "losses") == pytest.approx(left["losses"], rel=tolerance)
    assert together(way, "norms") == pytest.approx(left["norms"], rel=10 * tolerance)
    assert way[-1]["rates"] == pytest.approx(left["rates"])
    if precision == "float32":
        for name, weights in left["weights"].items():
            torch.testing.assert_close(way[-1]["weights"][name], weights, rtol=1e-3, atol=2e-5)


def test_offloaded_optimizer(runs: Any) -> None:
    """Adam in host memory, at stages 1 to 3, one after the other: the same losses."""
    (left,) = runs["undisturbed float32"]
    losses = together(runs["offload"], "losses")
    assert losses == pytest.approx(left["losses"][: len(losses)], rel=1e-5)


def test_the_average_goes_on_too(runs: Any) -> None:
    """Whoever held which share of it when."""
    (left,) = runs["undisturbed float32"]
    (averages,), (found,) = left["ema"].values(), runs["float32"][-1]["ema"].values()
    for name, average in averages.items():
        torch.testing.assert_close(found[name], average, rtol=1e-3, atol=2e-5)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_checkpoint_is_a_model(runs: Any, precision: str) -> None:
    """What sampling loads from the ranks' files is the average, bit for bit."""
    folder = newest_model(open_storage(f"{runs['folder']}/{precision}"))
    vdm, card = load_model(folder)
    assert card.step == STEPS
    assert len(card.schedule_sha256) == 64
    (average,) = runs[precision][-1]["ema"].values()
    for name, value in average.items():
        assert torch.equal(vdm.state_dict()[name], value)
