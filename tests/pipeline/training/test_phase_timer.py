"""No time of a step is lost or counted twice."""

import pytest
import torch

from pipeline.training.phase_timer import PHASES, PhaseTimer


def test_the_phases_add_up_to_the_whole() -> None:
    """Repeated phases are summed, absent ones are zero, and an interval begins where one ended."""
    now = iter([100.0, 101.0, 103.0, 107.0, 107.5, 110.0])
    timer = PhaseTimer(torch.device("cpu"), clock=lambda: next(now))
    for phase in ("data_wait", "forward", "backward", "forward"):
        timer.mark(phase)
    first = timer.take()
    assert first == dict.fromkeys(PHASES, 0.0) | {
        "data_wait": 1.0, "forward": 2.5, "backward": 4.0
    }  # fmt: skip
    timer.mark("tracking")
    assert timer.take()["tracking"] == 2.5
    assert sum(timer.take().values()) == 0.0


def test_an_unknown_phase_is_an_error() -> None:
    """Not a column of its own that nobody looks at."""
    timer = PhaseTimer(torch.device("cpu"))
    timer.mark("foward")  # type: ignore[arg-type]
    with pytest.raises(KeyError, match="foward"):
        timer.take()
