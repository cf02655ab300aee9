"""The monitor of a run: when restarts are in vain, and which error was the first."""

from pipeline.training.monitor import RunMonitor


def attempt(monitor: RunMonitor, step: int, *reports: tuple[int, str]) -> str | None:
    """One life of two workers: begun, `step` steps done, ended by errors."""
    told = monitor.begin(world=2)
    monitor.heard(step)
    for rank, text in reports:
        monitor.failed(rank, text)
    monitor.ended({1: "died"})
    return told


def test_two_restarts_in_vain_are_the_last() -> None:
    """Steps that had been done before are no progress; the last attempt's error is told."""
    monitor = RunMonitor()
    assert attempt(monitor, 16) is None
    assert attempt(monitor, 12, (0, "boom")) is None
    assert attempt(monitor, 16, (0, "boom"), (1, "reset by peer")) is None
    told = monitor.begin(world=2)
    assert told is not None
    assert "no further than step 16" in told
    assert "rank 0 failed first, after about step 16:\nboom" in told
    assert "reset by peer" not in told


def test_an_error_before_the_first_step_is_not_repeated_for_ever() -> None:
    """Three attempts, none of which did a step."""
    monitor = RunMonitor()
    assert [attempt(monitor, 0), attempt(monitor, 0), attempt(monitor, 0)] == [None] * 3
    assert monitor.begin(world=2) is not None


def test_progress_earns_another_restart() -> None:
    """One step further is enough, time and again."""
    monitor = RunMonitor()
    assert [attempt(monitor, step) for step in (3, 3, 4, 4, 5, 5)] == [None] * 6


def test_a_group_that_is_resized_has_not_failed() -> None:
    """Ray ends and begins such groups in good health."""
    monitor = RunMonitor()
    for _ in range(5):
        assert monitor.begin(world=2) is None


def test_a_time_out_names_who_kept_silent() -> None:
    """The ranks that waited report; the one they waited for does not."""
    monitor = RunMonitor()
    monitor.begin(world=4)
    for rank in (2, 0, 3):
        monitor.failed(rank, "RuntimeError: Timed out waiting 8000ms for recv operation")
    told = monitor.failure()
    assert told is not None
    assert told.startswith("rank 2 failed first")
    assert "It waited for rank 1, which kept silent." in told


def test_a_worker_that_cannot_speak_is_spoken_for() -> None:
    """What Ray says of a killed worker stands in for its own report."""
    monitor = RunMonitor()
    monitor.begin(world=2)
    monitor.ended({1: "the worker died of a SIGKILL"})
    assert (
        monitor.failure()
        == "rank 1 failed first, after about step 0:\nthe worker died of a SIGKILL"
    )


def test_a_wish_to_stop_is_heard_with_the_next_step() -> None:
    """It outlives a restart of the workers."""
    monitor = RunMonitor()
    monitor.begin(world=1)
    assert not monitor.heard(1)
    monitor.request_stop()
    monitor.begin(world=1)
    assert monitor.heard(1)
