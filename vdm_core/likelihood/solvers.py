"""Two solvers of ordinary differential equations, forwards in time, for a batch of states.

A step depends on its own example alone, so that an answer does not depend on the batch it is in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Field = Callable[[Tensor, Tensor], Tensor]
"""time (B,), state (B,M) -> d state / d time (B,M)."""

Solver = Callable[[Field, Tensor, float, float], Tensor]
"""field, state (B,M) at the start, start, end -> state (B,M) at the end."""

_NODES = (0.2, 0.3, 0.8, 8 / 9, 1.0, 1.0)
_STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True)
class RungeKutta4:
    """The classical method of order 4 with ``steps`` equal steps of four calls each.

    Raises ValueError for ``steps`` below 1.
    """

    steps: int = 64

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise ValueError(f"RungeKutta4: steps is {self.steps}; give at least 1")

    def __call__(self, field: Field, state: Tensor, start: float, end: float) -> Tensor:
        """The state at ``end``."""
        h = (end - start) / self.steps
        for step in range(self.steps):
            time = torch.full_like(state[:, 0], start + step * h)
            k_1 = field(time, state)
            k_2 = field(time + h / 2, state + h / 2 * k_1)
            k_3 = field(time + h / 2, state + h / 2 * k_2)
            k_4 = field(time + h, state + h * k_3)
            state = state + h / 6 * (k_1 + 2 * k_2 + 2 * k_3 + k_4)
        return state


@dataclass(frozen=True)
class DormandPrince:
    """The embedded pair of orders 5 and 4 (Dormand and Prince 1980), each example at its own pace.

    A step is accepted where its estimated error is below ``atol`` + ``rtol`` |state|, both for the
    root mean square over all but the last component and for the last, which here is a log density.
    Raises ValueError for tolerances that are not positive and for ``most_steps`` below 1, and, when
    called, for a field that is NaN and if an example has not arrived after that many steps.
    """

    rtol: float = 1e-5
    atol: float = 1e-5
    most_steps: int = 1000

    def __post_init__(self) -> None:
        if not (self.rtol > 0 and self.atol > 0 and self.most_steps >= 1):
            raise ValueError(f"{self}: give tolerances above 0 and most_steps of at least 1")

    def __call__(self, field: Field, state: Tensor, start: float, end: float) -> Tensor:
        """The state at ``end``, which must lie after ``start``."""
        time = torch.full_like(state[:, 0], start, dtype=torch.float64)
        step = torch.full_like(time, (end - start) / 100)
        slope = field(time.to(state.dtype), state)
        for _ in range(self.most_steps):
            last = time + step >= end
            step = torch.where(last, end - time, step)
            new, new_slope, error = _try(field, time, step, state, slope)
            ratio = self._ratio(error, torch.maximum(state.abs(), new.abs())).double()
            if ratio.isnan().any():
                raise ValueError(
                    f"the field has become NaN after {time[ratio.isnan()].min().item():.4g}: look "
                    "at the network's answer"
                )
            accepted = ratio <= 1
            time = torch.where(accepted, torch.where(last, end, time + step), time)
            state = torch.where(accepted[:, None], new, state)
            slope = torch.where(accepted[:, None], new_slope, slope)
            if (time >= end).all():
                return state
            step = step * (0.9 * ratio.pow(-0.2)).clamp(0.2, 5.0)
        raise ValueError(
            f"{self} got no further than {time.min().item():.4g} on the way from {start:.4g} to "
            f"{end:.4g}: loosen the tolerances"
        )

    def _ratio(self, error: Tensor, size: Tensor) -> Tensor:
        """Estimated over tolerated error, (B,)."""
        scaled = error / (self.atol + self.rtol * size)
        return torch.maximum(scaled[:, :-1].square().mean(1).sqrt(), scaled[:, -1].abs())


def _try(
    field: Field, time: Tensor, step: Tensor, state: Tensor, slope: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """One step from ``state`` with ``slope``: the new state, its slope and the estimated error."""
    h = step.to(state.dtype)[:, None]
    slopes, new = [slope], state
    for node, weights in zip(_NODES, _STAGES, strict=True):
        new = state + h * _combine(weights, slopes)
        slopes.append(field((time + node * step).to(state.dtype), new))
    return new, slopes[-1], h * _combine(_ERROR, slopes)


def _combine(weights: tuple[float, ...], slopes: list[Tensor]) -> Tensor:
    total = torch.zeros_like(slopes[0])
    for weight, slope in zip(weights, slopes, strict=True):
        total = total.add(slope, alpha=weight)
    return total
