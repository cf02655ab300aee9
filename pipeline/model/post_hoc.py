"""A moving average of a width that was not kept, put together from those that were.

How close it comes is known before anything is read. From widths 0.05 and 0.1, kept 16 times evenly
over the training, every width from 0.04 to 0.15 has its profile to within about 1 %; kept 8 times,
from 0.05 to 0.12, within 1.4 %.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.errors import InputError
from pipeline.model.average_record import AverageRecord
from vdm_core.ema_power import PostHoc, PowerAverage, post_hoc

LARGEST_ERROR = 0.1


class KeptAverages(NamedTuple):
    """The power-function averages that a run has of one step."""

    step: int
    widths: tuple[float, ...]
    read: Callable[[float], dict[str, Tensor]]
    """width -> the whole state dict"""


class Recipe(NamedTuple):
    """A combination that comes close enough."""

    kept: tuple[KeptAverages, ...]
    found: PostHoc
    target: PowerAverage

    @property
    def record(self) -> AverageRecord:
        """What the model's card says of it."""
        return AverageRecord(
            width=self.target.width,
            post_hoc_averages=len(self.found.weights),
            post_hoc_error=self.found.error,
        )

    def make(self) -> dict[str, Tensor]:
        """Read the averages one after the other and add them up, in float64; float32 at last."""
        shares = iter(self.found.weights.tolist())
        total: dict[str, Tensor] = {}
        for kept in self.kept:
            for width in kept.widths:
                share = next(shares)
                for name, value in kept.read(width).items():
                    before = total.get(name, torch.zeros((), dtype=torch.float64))
                    total[name] = before + share * value.double()
        return {name: value.float() for name, value in total.items()}


def recipe(kept: Sequence[KeptAverages], target: PowerAverage) -> Recipe:
    """How to make `target` from what was kept up to its step.

    Raises:
        InputError: nothing of that kind was kept, or it comes no nearer than `LARGEST_ERROR`.
    """
    before = tuple(k for k in kept if k.step <= target.step and k.widths)
    if not before:
        raise InputError(
            f"ema.width={target.width}: the run keeps no power-function average to make it from; "
            "train with optimizer.ema=[..., {width: 0.05}, {width: 0.1}]"
        )
    averages = [PowerAverage(k.step, width) for k in before for width in k.widths]
    found = post_hoc(averages, target)
    if found.error > LARGEST_ERROR:
        widths = sorted({average.width for average in averages})
        raise InputError(
            f"ema.width={target.width}: from {len(averages)} kept averages of widths "
            f"{', '.join(map(str, widths))} the profile comes no nearer than {found.error:.0%}; "
            "ask for a width nearer to those, or train with a smaller checkpoint.ema_every"
        )
    return Recipe(before, found, target)
