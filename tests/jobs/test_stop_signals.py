"""SIGTERM and Ctrl-C: the first asks, the second insists."""

import os
import signal
from collections.abc import Iterator

import pytest

from jobs.cli import StopSignals

BOTH = [signal.SIGTERM, signal.SIGINT]


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """The test process keeps its own handlers."""
    before = {number: signal.getsignal(number) for number in BOTH}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", BOTH)
def test_the_first_signal_asks_and_the_second_leaves(number: signal.Signals) -> None:
    """With the exit code that a shell expects of the signal."""
    signals = StopSignals()
    assert not signals.requested.is_set()
    os.kill(os.getpid(), number)
    assert signals.requested.is_set()
    assert signals.exit_code == 128 + number
    with pytest.raises(SystemExit) as leaving:
        os.kill(os.getpid(), number)
    assert leaving.value.code == 128 + number
