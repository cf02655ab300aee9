"""Storage that fails, or is not what it seems, while a run saves on two workers."""

from typing import Any

import pytest

pytestmark = pytest.mark.slow
STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def found(launch: Any, configure: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What two workers met."""
    folder = tmp_path_factory.mktemp("saving")
    base = [folder, "cluster.workers=2"]
    patience = "checkpoint={keep: 9, retry_seconds: 0, failures_allowed: 1}"
    return launch(
        "saving_ranks",
        2,
        folder / "run",
        config=configure(*base, patience),
        broken={"some": {2, 4, 5}, "one": {3}, "last": {6}},
        bfloat16={
            stage: configure(*base, "deepspeed.precision=bfloat16", f"deepspeed.zero_stage={stage}")
            for stage in STAGES
        },
    )


def test_one_failed_save_is_survived(found: Any) -> None:
    """The checkpoint is not there, the ones before and after it are, and the run goes on."""
    assert found["one"] == {"errors": ["", ""], "steps": [1, 2, 4, 5, 6]}


def test_too_many_in_a_row_end_the_run_on_every_worker(found: Any) -> None:
    """Both hear of worker 1's trouble, with its words; what was saved before stays."""
    run = found["some"]
    assert run["steps"] == [1, 3]
    for error in run["errors"]:
        assert error.startswith("2 checkpoints in a row could not be written to ")
        assert "cannot write" in error
        assert "checkpoint_000000005" in error


def test_the_last_save_may_not_fail(found: Any) -> None:
    """A run whose end is not saved has not ended well."""
    run = found["last"]
    assert run["steps"] == [1, 2, 3, 4, 5]
    assert all("checkpoint_000000006" in error for error in run["errors"])


def test_a_worker_left_alone_gets_away(found: Any) -> None:
    """It waits for the others' parts for a while, commits nothing, and ends."""
    assert found["alone"] == []


def test_storage_that_is_not_shared_is_refused(found: Any) -> None:
    """Every worker is told, before training; a shared one passes, and nothing is left in it."""
    assert "is not the folder that worker 0 writes to" in found["not shared"]
    assert found["left behind"] == []


@pytest.mark.parametrize("stage", STAGES)
def test_the_islands_are_float32(found: Any, stage: int) -> None:
    """The model as the engine made it passes; a γ that is rounded would be found."""
    assert found[f"islands {stage}"] == ["exp outside the network"]
