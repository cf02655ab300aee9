"""The shape's gradient is mean(2 L grad L) at every ZeRO stage, on any number of workers."""

from typing import Any

import pytest

pytestmark = pytest.mark.slow
WORLDS, STAGES, TIMES = (1, 2), (0, 1, 2, 3), {"continuous": "null", "10 steps": "10"}


@pytest.fixture(scope="module")
def updates(launch: Any, configure: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """First updates from micro-batches of two; a large eps makes Adam's step that of SGD."""
    found = {}
    for world in WORLDS:
        folder = tmp_path_factory.mktemp(f"workers-{world}")
        configs = {
            f"{stage} {name}": configure(
                folder,
                f"cluster.workers={world}",
                "data.micro_batch=2",
                "model.schedule={kind: monotone, objective: variance}",
                f"model.steps={steps}",
                "optimizer={learning_rate: 1.0e+4, eps: 1.0e+3, warmup_steps: 0}",
                "optimizer.weight_decay=0",
                "optimizer.gradient_clipping=0",
                f"deepspeed.zero_stage={stage}",
            )
            for stage in STAGES
            for name, steps in TIMES.items()
        }
        found[world] = launch("variance_ranks", world, folder / "run", **configs)
    return found


@pytest.mark.parametrize("name", TIMES)
@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("world", WORLDS)
def test_first_update_is_that_of_one_process(updates: Any, world: int, stage: int, name: str):
    """For the shape by the two-pass formula, for the network and the ends by the ELBO."""
    run = updates[world][f"{stage} {name}"]
    moved = {key for key, expected in run["expected"].items() if expected.any()}
    named = {"schedule.ends.end_0", "schedule.warp.weight_2", "network.conv_out.weight"}
    assert named <= moved
    for key, expected in run["expected"].items():
        error = (run["update"][key] - expected).norm()
        assert error <= 1e-4 * expected.norm() + 1e-6 * expected.numel() ** 0.5, key
