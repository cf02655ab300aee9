"""What happens to a bad sample: counted and skipped, or the end of the run."""

from __future__ import annotations

import logging
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Literal

from pipeline.data.decode import SampleError
from pipeline.errors import InputError

Policy = Literal["skip", "raise"]

_log = logging.getLogger(__name__)
_KEPT_REPORTS = 20
_LOGGED_IN_FULL = 5
_LEAST_BASE = 16_384


@dataclass
class Faults:
    """The bad samples met so far and the policy for the next one.

    "skip" tolerates `max_fraction` of the samples read, reckoned on 16,384 samples at least, so
    that one damaged block at the start does not stop a long run.
    """

    policy: Policy
    max_fraction: float
    read: int = 0
    counts: Counter[str] = field(default_factory=Counter)  # defect -> samples
    reports: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_REPORTS))

    @property
    def bad(self) -> int:
        """Bad samples so far."""
        return self.counts.total()

    def add(self, error: SampleError) -> None:
        """Record a bad sample. Raises InputError by policy or above the tolerated fraction."""
        if self.policy == "raise":
            raise InputError(f"{error}; repair the shard or set on_bad_sample: skip") from error
        self.counts[error.defect] += 1
        self.reports.append(str(error))
        if self.bad <= _LOGGED_IN_FULL or self.bad & (self.bad - 1) == 0:  # then 8, 16, 32, …
            _log.warning("bad sample %d of %d read: %s", self.bad, self.read, error)
        if self.bad > self.max_fraction * max(self.read, _LEAST_BASE):
            kinds = ", ".join(f"{n} {defect}" for defect, n in self.counts.most_common())
            raise InputError(
                f"{self.bad} of {self.read} samples are bad ({kinds}), more than "
                f"max_bad_fraction {self.max_fraction:g} allows; last: {error}"
            ) from error
