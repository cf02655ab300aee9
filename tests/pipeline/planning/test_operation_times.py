"""Times of operations that were not timed: found again where the law is known."""

from collections import Counter

import pytest

from pipeline.benchmark.records import BenchmarkReport, OperationTiming, PassTiming, Timing
from pipeline.planning.operation_times import OperationTimes
from pipeline.planning.operations import Operation
from pipeline.planning.pass_times import PassTimes


def law(operation: Operation) -> float:
    """Seconds: products at 1 TFLOP/s and 10 GB/s, all else 2 µs and 5 GB/s."""
    if operation.flops:
        return 1e-12 * operation.flops + 1e-10 * operation.bytes
    return 2e-6 + 2e-10 * operation.bytes


def network(width: int, images: int) -> Counter[Operation]:
    """Products and sums of a network with `width` channels, and twice as many further on."""
    found: Counter[Operation] = Counter()
    for channels in (width, 2 * width):
        size = 4 * images * channels
        arithmetic = 2 * images * channels**2
        found[Operation("mm float32", arithmetic, 2 * size + 4 * channels**2)] += 6
        found[Operation("add float32", 0, 3 * size)] += 9
        found[Operation("add float32", 0, size)] += 4
    return found


def timed(operations: Counter[Operation]) -> tuple[OperationTiming, ...]:
    """As a benchmark finds them."""
    return tuple(OperationTiming(*o, calls, law(o)) for o, calls in operations.items())


def whole(operations: Counter[Operation]) -> float:
    """Seconds of all of them."""
    return sum(calls * law(operation) for operation, calls in operations.items())


def test_a_wider_network_by_the_law_of_narrower_ones() -> None:
    """Eight times the channels: 64 times the arithmetic, 8 times the bytes, the same calls."""
    times = OperationTimes([row for n in (4, 16, 64) for row in timed(network(64, n))])
    wide = network(512, 32)
    assert times.of(wide).seconds == pytest.approx(whole(wide), rel=1e-6)
    assert times.of(wide).unseen == 0


def test_a_kind_that_was_not_timed_is_counted_and_said() -> None:
    """As the average of what only moves: here the sums, since there is nothing else."""
    times = OperationTimes([row for n in (4, 16) for row in timed(network(64, n))])
    other = Operation("silu float32", 0, 10**6)
    found = times.of(Counter({other: 3, Operation("add float32", 0, 10**6): 1}))
    assert found.seconds == pytest.approx(4 * law(other))
    assert found.unseen_share == pytest.approx(0.75)


def report(
    images: int, engine: float, issue: float | None = None, accumulation: int = 1
) -> BenchmarkReport:
    """One worker whose step takes `engine` times what its passes take alone."""
    passes = [
        PassTiming(
            micro_batch=n, seconds=1.0, issue_seconds=issue, operations=timed(network(64, n))
        )
        for n in (images // 4, images)
    ]
    seconds = engine * accumulation * whole(network(64, images))
    phases = {"forward": seconds / 3, "backward": 2 * seconds / 3, "optimizer": 0.0, "average": 0.0}
    one = Timing(seconds=(1.0,))
    trial = {
        "workers": 1, "global_batch": images * accumulation, "device": "CPU", "load": 0.0,
        "compute": {"precision": "float32", "step": one, "phases": phases},
        "loader": one, "both": one, "all_reduce": None, "stall": one, "save": one,
    }  # fmt: skip
    return BenchmarkReport.model_validate({
        "name": "toy", "zero_stage": 1, "parameters": 1, "training_flops": 1, "peak_flops": None,
        "state_bytes": 1, "checkpoint_every_steps": 1, "steps": 1, "repeats": 2, "torch": "",
        "code": "", "trials": (trial,), "passes": passes, "other_precision": None,
    })  # fmt: skip


@pytest.mark.parametrize("accumulation", [1, 4])
def test_what_the_engine_adds_is_carried_over(accumulation: int) -> None:
    """A step that takes 1.3 times its operations does so in another network too."""
    times = PassTimes([report(32, 1.3, accumulation=accumulation)])
    for other in (network(64, 32), network(256, 8)):
        assert times.of(other).seconds == pytest.approx(1.3 * whole(other), rel=1e-6)


def test_small_operations_wait_for_the_host() -> None:
    """Of a GPU: a network of short operations takes as long as they take to be handed over, and
    one of long ones as long as they take. The engine's ratio is that of the slower of both.
    """
    calls = network(64, 32).total()
    each = 5 * whole(network(64, 32)) / calls  # five times as long as the arithmetic
    times = PassTimes([report(32, 10.0, issue=each * calls)])
    small, large = network(64, 8), network(4096, 4096)
    assert times.of(small).seconds == pytest.approx(2 * each * calls, rel=1e-6)
    assert times.of(large).seconds == pytest.approx(2 * whole(large), rel=1e-6)
