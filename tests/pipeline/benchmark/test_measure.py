"""A trial on two ranks: every part is measured, and what is said about them adds up."""

from typing import Any

import pytest

from pipeline.benchmark.records import Trial
from pipeline.config.benchmark import BenchmarkConfig

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def found(configure: Any, pack: Any, launch: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What rank 0 of two found."""
    folder = tmp_path_factory.mktemp("speed")
    pack(folder / "set")
    base = configure(folder, "cluster.workers=2").model_dump()
    config = BenchmarkConfig.model_validate(base | {"measure": {"steps": 2, "repeats": 3}})
    return launch("speed_ranks", 2, folder, config=config)


def test_every_part_is_measured(found: Any) -> None:
    """Once for each repetition, the warm-up left out."""
    trial: Trial = found["trial"]
    assert (trial.workers, trial.global_batch, trial.device) == (2, 8, "CPU")
    assert trial.all_reduce is not None
    timings = (trial.loader, trial.compute.step, trial.both, trial.stall, trial.save)
    for timing in (*timings, trial.all_reduce):
        assert len(timing.seconds) == 3
        assert min(timing.seconds) > 0


def test_the_phases_are_the_step(found: Any) -> None:
    """Their means over two ranks lie between half the slowest rank's time and all of it."""
    compute = found["trial"].compute
    assert set(compute.phases) == {"forward", "backward", "optimizer", "average"}
    mean = sum(compute.step.seconds) / len(compute.step.seconds)
    assert 0.499 * mean < sum(compute.phases.values()) < 1.001 * mean


def test_a_save_contains_its_stall(found: Any) -> None:
    """In each repetition."""
    trial: Trial = found["trial"]
    pairs = zip(trial.stall.seconds, trial.save.seconds, strict=True)
    assert all(stall < save for stall, save in pairs)


def test_the_size_of_the_state_is_that_of_the_files(found: Any) -> None:
    """But for the files' headers: two ranks, a few kilobytes each."""
    headers = found["files_bytes"] - found["state_bytes"]
    assert 0 < headers < 2 * 2**16
