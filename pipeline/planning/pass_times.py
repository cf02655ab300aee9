"""What the two passes of any network take, by the operations that benchmarks have timed.

The sum over its operations is what they take one after the other; on a GPU a network of many
small ones waits for the host instead, which hands them over at its own pace. What the engine adds
to both, such as gradients put into buckets, is in the benchmark's step and not in its operations:
their ratio is taken to be the same for the network that is planned.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import geometric_mean

from pipeline.benchmark.records import BenchmarkReport, PassTiming
from pipeline.planning.operation_times import Estimate, OperationTimes
from pipeline.planning.operations import Operation


class PassTimes:
    """Seconds of forward and backward pass on the device of `reports`."""

    def __init__(self, reports: Sequence[BenchmarkReport]) -> None:
        """`reports`: of one device and precision, each with its passes timed."""
        timed = [timing for report in reports for timing in report.passes]
        self._times = OperationTimes(row for timing in timed for row in timing.operations)
        self._issue = _issue_seconds(timed)
        self._engine = 1.0
        alone = [self.of(_operations(_of_the_run(report))).seconds for report in reports]
        measured = [_measured(report) for report in reports]
        self._engine = geometric_mean(m / a for m, a in zip(measured, alone, strict=True))

    def of(self, operations: Counter[Operation]) -> Estimate:
        """Of passes that consist of `operations`, in a step of the engine."""
        found = self._times.of(operations)
        waiting = self._issue * operations.total()
        slower = self._engine * max(1.0, waiting / found.seconds)
        return Estimate(found.seconds * slower, found.unseen * slower)


def _of_the_run(report: BenchmarkReport) -> PassTiming:
    return max(report.passes, key=lambda timing: timing.micro_batch)


def _measured(report: BenchmarkReport) -> float:
    """Seconds of the two passes over a micro-batch in a step of the engine."""
    first = report.trials[0]
    images = first.global_batch / first.workers
    phases = first.compute.phases
    return (phases["forward"] + phases["backward"]) * _of_the_run(report).micro_batch / images


def _operations(timing: PassTiming) -> Counter[Operation]:
    return Counter({Operation(*row[:3]): row.calls for row in timing.operations})


def _issue_seconds(timed: Sequence[PassTiming]) -> float:
    """Of the host for an operation; 0 where host and device are one."""
    known = [timing for timing in timed if timing.issue_seconds is not None]
    calls = sum(row.calls for timing in known for row in timing.operations)
    return sum(timing.issue_seconds or 0.0 for timing in known) / calls if known else 0.0
