"""How long each operation of the two passes takes on the device at hand, one by one.

Timed by torch's profiler, which on a GPU takes the kernels' own time and not that of handing them
over. `jobs.plan` puts the times together to passes of other networks and micro-batches.
"""

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch.autograd import DeviceType  # type: ignore[attr-defined]
from torch.autograd.profiler_util import FunctionEvent
from torch.profiler import ProfilerActivity, profile, record_function

from pipeline.benchmark.records import OperationTiming, PassTiming
from pipeline.planning.operations import Operation, Operations
from pipeline.planning.passes import decoder_radius, keyed_inputs, two_passes
from pipeline.training.trained import Trained

_MARK = "operation "


def time_passes(
    trained: Trained, micro_batch: int, repeats: int, device: torch.device, *, bfloat16: bool
) -> PassTiming:
    """The two passes over `micro_batch` images, without an engine: whole, and by operation.

    The shortest of `repeats`, after one that warms up: what is beside the work only adds to it.
    """
    model = trained.build().to(device)
    inputs = keyed_inputs(model, trained, micro_batch, device)
    radius = decoder_radius(trained)

    def once() -> None:
        two_passes(model, inputs, radius, bfloat16=bfloat16)
        for parameter in model.parameters():
            parameter.grad = None

    once()
    whole = [_seconds(once, device) for _ in range(repeats)]
    issued, seconds = (min(column) for column in zip(*whole, strict=True))
    runs = [_timed_operations(once, device) for _ in range(repeats)]
    return PassTiming(
        micro_batch=micro_batch,
        seconds=seconds,
        issue_seconds=None if device.type == "cpu" else issued,
        operations=_together(runs),
    )


def _seconds(passes: Callable[[], None], device: torch.device) -> tuple[float, float]:
    """(Until the host has handed all over, until the device is done)."""
    began = time.perf_counter()
    passes()
    issued = time.perf_counter() - began
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return issued, time.perf_counter() - began


def _timed_operations(
    passes: Callable[[], None], device: torch.device
) -> list[tuple[Operation, float]]:
    """The operations in their order, with the seconds of each."""
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiled, _Marked() as marked:
        passes()
    marks = {
        event.name: event.cpu_children
        for event in profiled.events()
        if event.name.startswith(_MARK) and event.device_type == DeviceType.CPU
    }
    return [
        (found, 1e-6 * sum(_microseconds(inner, device) for inner in marks[f"{_MARK}{n}"]))
        for n, found in enumerate(marked.found)
    ]


def _microseconds(event: FunctionEvent, device: torch.device) -> float:
    """Of the processor, or of the kernels that it had started."""
    return float(event.cpu_time_total if device.type == "cpu" else event.device_time_total)


def _together(runs: list[list[tuple[Operation, float]]]) -> tuple[OperationTiming, ...]:
    """Like operations in one row: the mean over them of each one's shortest time."""
    times: dict[Operation, list[float]] = defaultdict(list)
    for same in zip(*runs, strict=True):
        assert len({operation for operation, _ in same}) == 1
        times[same[0][0]].append(min(seconds for _, seconds in same))
    return tuple(
        OperationTiming(*operation, len(found), sum(found) / len(found))
        for operation, found in times.items()
    )


class _Marked(Operations):  # type: ignore[no-untyped-call]
    """Operations that the profiler knows by their number."""

    def run(self, operation: Any, arguments: Any, keywords: Any) -> Any:
        with record_function(f"{_MARK}{len(self.found)}"):
            return operation(*arguments, **keywords)
