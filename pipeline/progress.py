"""A log line now and then while a long piece of work goes on: how much, how fast, how long left."""

import logging
import time
from collections.abc import Callable

from pipeline.metrics import duration_text

log = logging.getLogger(__name__)


class Progress:
    """Lines with rate and time left, at most one in `period` seconds, and one at the end.

    The clock starts with the first result: what came before is the start of the workers.
    """

    def __init__(
        self,
        what: str,
        total: int,
        unit: str = "images",
        *,
        period: float = 5.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Count to `total` units; `what` heads each line ("train: packed")."""
        self.what, self.total, self.unit, self.period = what, total, unit, period
        self.done = 0
        self._clock = clock
        self._first: tuple[float, int] | None = None
        self._next = 0.0

    def add(self, count: int = 1, note: str = "") -> None:
        """Count finished units; `note` ends the line, if one is due."""
        self.done += count
        now = self._clock()
        if self._first is None:
            self._first, self._next = (now, self.done), now + self.period
            self._say(note)
        elif now >= self._next or self.done == self.total:
            self._next = now + self.period
            self._say(self._speed(now) + note)

    def _say(self, rest: str) -> None:
        log.info("%s %s of %s%s", self.what, f"{self.done:,}", f"{self.total:,} {self.unit}", rest)

    def _speed(self, now: float) -> str:
        """Rate and time left; nothing where the clock has run too briefly to tell."""
        assert self._first is not None
        start, before = self._first
        if now - start < 1.0:
            return ""
        rate = (self.done - before) / (now - start)
        left = duration_text((self.total - self.done) / rate)
        figure = f"{rate:,.0f}" if rate >= 100 else f"{rate:.3g}"
        return f"  {figure} {self.unit}/s  {left} left"
