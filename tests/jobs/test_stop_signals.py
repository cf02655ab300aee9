"""SIGTERM and Ctrl-C: the first asks, the second insists."""

import os
import signal
from collections.abc import Iterator

import pytest

from jobs.cli import StopSignals
from jobs.ladder import own_signals

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


@pytest.mark.parametrize("number", BOTH)
def test_after_a_training_a_signal_means_what_it_meant_before(number: signal.Signals) -> None:
    """The jobs that follow in this process can be interrupted."""
    before = signal.getsignal(number)
    with own_signals():
        StopSignals()
        assert signal.getsignal(number) != before
    assert signal.getsignal(number) == before
