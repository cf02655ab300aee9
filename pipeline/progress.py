"""A log line now and then while a long piece of work goes on."""

import logging
import time

from pipeline.metrics import duration_text

_log = logging.getLogger(__name__)
_INTERVAL_SECONDS = 3.0


class Progress:
    """Counts and logs the rate and the time left, at most every three seconds."""

    def __init__(self, what: str, total: int, *, unit: str = "images") -> None:
        """Start the clock for `total` units; `what` heads the line ("train: packed")."""
        self._what, self._unit, self._total, self._done = what, unit, total, 0
        self._started = self._logged = time.monotonic()

    def add(self, units: int = 1) -> None:
        """Count further units."""
        self._done += units
        now = time.monotonic()
        if now - self._logged >= _INTERVAL_SECONDS:
            rate = self._done / (now - self._started)
            left = duration_text((self._total - self._done) / rate)
            of = f"{self._done:,} of {self._total:,} {self._unit}"
            _log.info("%s %s  %.4g %s/s  %s left", self._what, of, rate, self._unit, left)
            self._logged = now
