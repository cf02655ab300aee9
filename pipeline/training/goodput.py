"""Where the wall clock of a run went over its whole life: restarts, lost steps and pauses too.

The run's journal is the ledger: a line when workers are ready to train, and the seconds of each
phase with every report. Whoever continues the run reads it back.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.training.phase_timer import PHASES, TRAINING, Phase

_KINDS: dict[Phase, str] = dict.fromkeys(TRAINING, "productive") | {
    "data_wait": "data_wait",
    "tracking": "tracking",
    "pictures": "tracking",
    "checkpoint": "checkpoint",
}


class Goodput:
    """Shares of the time since the run was first submitted; together they are 1.

    productive   steps that were kept: forward, backward, optimizer, average, agreement
    lost         such steps that were computed again after a restart
    data_wait    waiting for data
    checkpoint   saving, as far as training waited for it
    tracking     reports and pictures
    init         from submission, or restart, until training began
    stopped      the rest: nothing ran, or it died before it could report
    """

    def __init__(
        self, records: Iterable[Mapping[str, Any]], clock: Callable[[], float] = time.time
    ) -> None:
        """Read back a journal's records, in order; `clock` gives the seconds since 1970."""
        self._clock = clock
        self._seconds = dict.fromkeys((*_KINDS.values(), "lost", "init"), 0.0)
        self._kept: list[tuple[int, float]] = []
        self._born: float | None = None
        self._heard = 0.0
        self._step = 0
        for record in records:
            if "life" in record:
                self._begin(**record["life"])
            elif f"time/{PHASES[0]}_seconds" in record.get("values", {}):
                self.add(record["step"], record["values"])
                self._heard = record["time"] / 1000

    def begin(self, submitted: float, started: float, step: int) -> dict[str, float]:
        """Training begins now, after `step`; returns the journal's line about it.

        `submitted`: when the job was, `started`: when these workers were, in seconds since 1970.
        """
        first = submitted > self._heard  # else these workers take the place of others
        began, ready = submitted if first else started, self._clock()
        self._begin(began, ready, step)
        return {"began": began, "ready": ready, "step": step}

    def _begin(self, began: float, ready: float, step: int) -> None:
        self._born = began if self._born is None else self._born
        self._seconds["init"] += ready - began
        self._heard, self._step = ready, step
        while self._kept and self._kept[-1][0] > step:
            seconds = self._kept.pop()[1]
            self._seconds["productive"] -= seconds
            self._seconds["lost"] += seconds

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Add an interval up to `step` from its figures `time/<phase>_seconds`, per step."""
        steps, productive = step - self._step, 0.0
        for phase in PHASES:
            seconds, kind = values[f"time/{phase}_seconds"] * steps, _KINDS[phase]
            self._seconds[kind] += seconds
            productive += seconds if kind == "productive" else 0.0
        self._kept.append((step, productive))
        self._step = step

    def figures(self) -> dict[str, float]:
        """`goodput/<kind>`: the shares up to now. Raises RuntimeError before training began."""
        if self._born is None:
            raise RuntimeError("there is no goodput before training began")
        whole = max(self._clock() - self._born, sum(self._seconds.values()))
        shares = {kind: seconds / whole for kind, seconds in self._seconds.items()}
        shares["stopped"] = 1.0 - sum(shares.values())
        return {f"goodput/{kind}": share for kind, share in shares.items()}
