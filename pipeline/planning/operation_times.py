"""What operations take that were never timed, from like ones that were.

An operation takes a time of its own, so much for each byte that it moves and so much for each
FLOP: three numbers for each kind, found by least squares among the operations of a benchmark. So a
network of other channels, depth or micro-batch has its passes added up operation by operation.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

from pipeline.benchmark.records import OperationTiming
from pipeline.planning.operations import Operation


class Estimate(NamedTuple):
    """Seconds of a pass; `unseen` of them for kinds of operations that were not timed."""

    seconds: float
    unseen: float

    @property
    def unseen_share(self) -> float:
        """Of the whole."""
        return self.unseen / self.seconds


class OperationTimes:
    """Seconds of any operation, fitted to `timings`."""

    def __init__(self, timings: Iterable[OperationTiming]) -> None:
        """`timings`: of at least one operation, from the same device."""
        rows = list(timings)
        groups: dict[str, list[OperationTiming]] = defaultdict(list)
        for row in rows:
            groups[row.name].append(row)
        self._kinds = {name: _fit(group) for name, group in groups.items()}
        computing = [row for row in rows if row.flops]
        self._others = {
            True: _fit(computing or rows),
            False: _fit([row for row in rows if not row.flops] or rows),
        }

    def of(self, operations: Counter[Operation]) -> Estimate:
        """All of `operations`, one after the other.

        A kind that was not timed counts as the average of those that compute, or that only move.
        """
        seconds = unseen = 0.0
        for operation, calls in operations.items():
            known = self._kinds.get(operation.name)
            costs = self._others[operation.flops > 0] if known is None else known
            taken = calls * float(costs @ (1.0, operation.bytes, operation.flops))
            seconds += taken
            unseen += taken if known is None else 0.0
        return Estimate(seconds, unseen)


def _fit(rows: list[OperationTiming]) -> NDArray[np.float64]:
    """Seconds (of a call, for a byte, for a FLOP), none negative.

    The squares are of errors against the square root of the time, so that neither the longest
    operations nor the many short ones decide alone.
    """
    features = np.array([[1.0, row.bytes, row.flops] for row in rows])
    seconds = np.array([row.seconds for row in rows])
    weights = np.sqrt([row.calls / max(row.seconds, 1e-7) for row in rows])
    scale = np.maximum(features.max(axis=0), 1.0)
    found, _ = nnls(features / scale * weights[:, None], seconds * weights)
    return np.asarray(found / scale, dtype=np.float64)
