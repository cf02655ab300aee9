"""What torch holds and allocates on the CPU, byte by byte."""

import gc
from collections.abc import Callable

import torch
from torch.profiler import ProfilerActivity, profile


def held_bytes() -> int:
    """Of all tensors that Python knows, each storage once."""
    gc.collect()
    found = [thing for thing in gc.get_objects() if isinstance(thing, torch.Tensor)]
    tensors = [tensor for tensor in found if not tensor.is_meta]
    storages = {t.untyped_storage()._cdata: t.untyped_storage().nbytes() for t in tensors}
    return sum(storages.values())


def peak_bytes(work: Callable[[], None], tries: int = 3) -> int:
    """How many bytes more than before were there at once while `work` ran.

    From the profiler's events. It loses one now and then; a lost `free` only adds, so the least of
    a few tries counts.
    """
    return min(_peak(work) for _ in range(tries))


def _peak(work: Callable[[], None]) -> int:
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recorded:
        work()
    events = recorded.profiler.kineto_results.events()
    memory = [event for event in events if event.name() == "[memory]"]
    now = peak = 0
    for event in sorted(memory, key=lambda event: event.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
