"""Where the time of training goes, phase by phase, without making the step wait for the device."""

import time
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch

Phase = Literal[
    "data_wait", "forward", "backward", "optimizer", "average", "agreement",
    "tracking", "pictures", "checkpoint",
]  # fmt: skip
PHASES: tuple[Phase, ...] = get_args(Phase)
TRAINING: tuple[Phase, ...] = PHASES[:6]
"""The phases of a step; the others come now and then."""


class PhaseTimer:
    """Cuts time by marks: what passed since the mark before belongs to the phase named.

    So the phases add up to the whole. On a GPU a mark is an event in the stream's order: the
    times are the device's, its waits for the host included, and are read by `take` alone. DeepSpeed
    exchanges gradients within the backward pass (and at ZeRO 3 weights within both), so
    communication that the computation does not hide counts there.
    """

    def __init__(
        self, device: torch.device, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start the first phase; `clock` gives the seconds where the device has no events."""
        self._stamp = _event if device.type == "cuda" else clock
        self._marks: list[tuple[Phase, Any]] = []
        self._last = self._stamp()

    def mark(self, phase: Phase) -> None:
        """End a phase here; the next one begins."""
        self._marks.append((phase, self._stamp()))

    def take(self) -> dict[Phase, float]:
        """Seconds of every phase since the last call, up to the last mark. Waits for the device."""
        seconds = dict.fromkeys(PHASES, 0.0)
        marks, self._marks = self._marks, []
        if marks and isinstance(self._last, torch.cuda.Event):
            marks[-1][1].synchronize()
        for phase, stamp in marks:
            seconds[phase] += _between(self._last, stamp)
            self._last = stamp
        return seconds


def _event() -> torch.cuda.Event:
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event


def _between(first: Any, last: Any) -> float:
    if isinstance(first, torch.cuda.Event):
        return float(first.elapsed_time(last)) / 1000
    return float(last - first)
