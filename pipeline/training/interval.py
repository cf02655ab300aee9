"""What is measured between two reports: summed on each rank, brought together once."""

import resource
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.metrics import StepMeter
from pipeline.training.phase_timer import PHASES, Phase, PhaseTimer
from pipeline.training.time_bins import BINS, TimeBins
from vdm_core.family import Terms

_GIB = 2**30


class Interval(NamedTuple):
    """What all ranks measured since the last report.

    `nats`: the mean of each term. `bins`: as `TimeBins.take`, (3, BINS) float64 on the CPU.
    `seconds`: of each phase, the mean over the ranks; `slowest`: the greatest. `host_gib`,
    `device_gib`: the greatest peak of memory of a rank's process since its start (0 for no GPU).
    """

    images: int
    nats: dict[str, float]
    bins: Tensor
    seconds: dict[Phase, float]
    slowest: dict[Phase, float]
    host_gib: float
    device_gib: float


class IntervalMeter:
    """One rank's sums. Only `bring_together` waits for the device."""

    def __init__(self, names: Sequence[str], device: torch.device) -> None:
        """Start the clock; `names` are those of the terms."""
        self._device = device
        self._terms, self._bins = StepMeter(names, device), TimeBins(device)
        self._timer = PhaseTimer(device)
        self.mark = self._timer.mark

    def add(self, terms: Terms, times: Tensor | None, valid: Tensor) -> None:
        """Add a micro-batch: terms (B,) in nats, where `valid` (B,) is true.

        `times` (B,) are those of `terms.timed`; None where the model has none.
        """
        self._terms.add(terms.named(), valid)
        if terms.timed is not None and times is not None:
            self._bins.add(terms.timed, times, valid)

    def bring_together(self) -> Interval:
        """The figures of all ranks since the last call. Collective."""
        phases = list(self._timer.take().values())
        terms = self._terms.take()
        times = torch.tensor(phases, dtype=torch.float64, device=self._device)
        sums = torch.cat([terms, self._bins.take().flatten(), times / dist.get_world_size()])
        most = torch.tensor([*phases, *_peak_gib(self._device)], device=self._device)
        dist.all_reduce(sums)
        dist.all_reduce(most, dist.ReduceOp.MAX)
        sums = sums.cpu()
        totals, rest = sums[: len(terms)], sums[len(terms) :]
        *slowest, host, device = most.tolist()
        return Interval(
            images=int(totals[-1]),
            nats=self._terms.means(totals),
            bins=rest[: 3 * BINS].view(3, BINS),
            seconds=dict(zip(PHASES, rest[3 * BINS :].tolist(), strict=True)),
            slowest=dict(zip(PHASES, slowest, strict=True)),
            host_gib=host,
            device_gib=device,
        )


def _peak_gib(device: torch.device) -> tuple[float, float]:
    """Peak memory of this process: resident on the host, allocated by torch on the GPU."""
    host = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / _GIB
    return host, torch.cuda.max_memory_allocated(device) / _GIB if device.type == "cuda" else 0.0
