"""Every second of a run's life is counted once, whatever ended its workers."""

import pytest

from pipeline.training.goodput import Goodput
from pipeline.training.phase_timer import PHASES


def values(**seconds: float) -> dict[str, float]:
    """Figures of an interval, in seconds per step."""
    return {f"time/{phase}_seconds": seconds.get(phase, 0.0) for phase in PHASES}


def test_a_life_with_a_restart_a_pause_and_lost_steps() -> None:
    """Ten steps of 1 s, five of them lost with a worker; submitted again after a pause."""
    now = [1020.0]
    first = Goodput([], clock=lambda: now[0])
    journal = [{"time": 1020_000, "life": first.begin(submitted=1000.0, started=1015.0, step=0)}]
    for step, end in ((5, 1030.0), (10, 1035.0)):
        seconds = values(forward=0.25, backward=0.75, data_wait=1.0 if step == 5 else 0.0)
        first.add(step, seconds)
        now[0] = end
        journal.append({"time": int(end * 1000), "step": step, "values": seconds})
    assert first.figures() == pytest.approx(
        {
            "goodput/productive": 10 / 35, "goodput/data_wait": 5 / 35, "goodput/init": 20 / 35,
            "goodput/lost": 0.0, "goodput/checkpoint": 0.0, "goodput/tracking": 0.0,
            "goodput/stopped": 0.0,
        }
    )  # fmt: skip

    now[0] = 1045.0  # killed at 1040, new workers began then, and go on after step 5
    second = Goodput(journal, clock=lambda: now[0])
    journal.append(
        {"time": 1045_000, "life": second.begin(submitted=1000.0, started=1040.0, step=5)}
    )
    again = values(forward=1.0, checkpoint=0.2, pictures=0.2)
    second.add(10, again)
    now[0] = 1052.0
    journal.append({"time": 1052_000, "step": 10, "values": again})
    expected = {
        "goodput/productive": 10 / 52, "goodput/data_wait": 5 / 52, "goodput/init": 25 / 52,
        "goodput/lost": 5 / 52, "goodput/checkpoint": 1 / 52, "goodput/tracking": 1 / 52,
        "goodput/stopped": 5 / 52,
    }  # fmt: skip
    assert second.figures() == pytest.approx(expected)

    now[0] = 1104.0  # submitted again at 1100
    third = Goodput(journal, clock=lambda: now[0])
    third.begin(submitted=1100.0, started=1103.0, step=10)
    figures = third.figures()
    assert figures["goodput/init"] == pytest.approx(29 / 104)
    assert figures["goodput/stopped"] == pytest.approx((5 + 48) / 104)
    assert sum(figures.values()) == pytest.approx(1.0)


def test_other_lines_of_a_journal_do_not_matter() -> None:
    """Artifacts, and reports of versions without times."""
    records = [{"time": 1, "artifact": "a.json"}, {"time": 2, "step": 1, "values": {"loss": 1.0}}]
    with pytest.raises(RuntimeError, match="before training began"):
        Goodput(records).figures()
