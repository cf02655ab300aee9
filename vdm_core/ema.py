"""Exponential moving averages of parameters, or of any shards of them, in place.

An average is a float32 tensor beside each parameter, the schedule's included. Everything here is
elementwise, so lists of shards serve as well as lists of whole parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def ema_decay(step: int, decay: float) -> float:
    """The decay at optimiser step 0, 1, …: min(``decay``, (1 + step) / (10 + step)).

    The ramp lets the average forget the initial weights quickly. Raises ValueError for a decay
    outside [0, 1) or a negative step.
    """
    if not 0.0 <= decay < 1.0 or step < 0:
        raise ValueError(f"decay {decay}, step {step}: give 0 <= decay < 1 and step >= 0")
    return min(decay, (1 + step) / (10 + step))


@torch.no_grad()
def ema_start(values: Sequence[Tensor]) -> list[Tensor]:
    """Averages that start at ``values``: float32 copies, outside autograd (float64 stays)."""
    return [
        value.detach().to(torch.promote_types(value.dtype, torch.float32), copy=True)
        for value in values
    ]


@torch.no_grad()
def ema_update(averages: Sequence[Tensor], values: Sequence[Tensor], decay: float) -> None:
    """averages <- decay averages + (1 - decay) values, in place, tensor by tensor.

    Raises ValueError where the two lists differ in length or in a shape.
    """
    for i, (average, value) in enumerate(zip(averages, values, strict=True)):
        if average.shape != value.shape:
            raise ValueError(
                f"average {i} has shape {tuple(average.shape)}, its value {tuple(value.shape)}"
            )
    if averages:
        targets = [value.to(average.dtype) for average, value in zip(averages, values, strict=True)]
        torch._foreach_lerp_(list(averages), targets, 1.0 - decay)
