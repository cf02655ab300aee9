"""Averages whose length grows with training, and averages of a length chosen after training.

After Karras et al. 2024 ("Analyzing and Improving the Training Dynamics of Diffusion Models",
section 3 and appendix C). An average with a constant decay looks back over the same number of steps
for ever. A power-function average looks back over the same *share* of the training so far: after
step t the weights of the time tau count with the profile

    p(tau) = (k + 1) tau^k / t^(k+1),   0 <= tau <= t,

so the random start is forgotten and no ramp is needed. People choose its width, the standard
deviation of the profile as a share of t, rather than the exponent k (gamma in the paper, which is
something else in this project):

    width^2 = (k + 1) / ((k + 2)^2 (k + 3)).

The recursion average <- beta average + (1 - beta) weights with beta = (1 - 1/t)^(k+1) gives step i
the weight (i^(k+1) - (i-1)^(k+1)) / t^(k+1), which is the integral of p over (i-1, i]: the discrete
average *is* the continuous one of weights that stay put between steps.

Post hoc. Profiles of two widths at several steps span much of what lies between them. So from
snapshots of both, kept every now and then, the average of another width is put together as the
linear combination whose profile is nearest in least squares; inner products of profiles are known
in closed form. Beyond the paper, the combination's weights must sum to 1, as every profile does, so
that what did not move in training comes out as it was. For a path theta of the weights and any
constant c, Cauchy and Schwarz give

    | combination - direct average |  <=  error ||p|| ||theta - c||,

with norms over [0, t] and the relative ``error`` that is handed out with the combination.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

WIDEST = 1 / math.sqrt(12)
"""The plain mean of all steps, k = 0."""


class PowerAverage(NamedTuple):
    """The power-function average of relative width ``width`` after optimiser step ``step`` >= 1."""

    step: int
    width: float


class PostHoc(NamedTuple):
    """How to put an average together from snapshots: sum_i weights_i snapshot_i."""

    weights: Tensor  # (N,) float64, sum 1
    error: float  # || sum_i weights_i p_i - p || / || p ||


def power_exponent(width: float) -> float:
    """The exponent k >= 0 of a profile of relative width 0 < ``width`` <= 1 / sqrt(12).

    It is the largest root of the cubic k^3 + 7 k^2 + (16 - width^-2) k + 12 - width^-2. Newton's
    steps from above, where the cubic is convex, fall towards it until rounding stops them.
    """
    if not 0 < width <= WIDEST:
        raise ValueError(f"width {width}: give 0 < width <= 1/sqrt(12) = {WIDEST:.4f}, all steps")
    square = width**-2
    below, exponent = 1 / width - 2, math.inf
    while below < exponent:
        exponent = below
        value = ((exponent + 7) * exponent + 16 - square) * exponent + 12 - square
        below = exponent - value / ((3 * exponent + 14) * exponent + 16 - square)
    return max(exponent, 0.0)


def power_decay(step: int, width: float) -> float:
    """The decay at optimiser step 0, 1, …: (1 - 1/t)^(k+1) with t = step + 1.

    Raises ValueError for a negative step or a width outside (0, 1/sqrt(12)].
    """
    if step < 0:
        raise ValueError(f"step {step}: give step >= 0")
    return float((step / (step + 1)) ** (power_exponent(width) + 1))


def post_hoc(snapshots: Sequence[PowerAverage], target: PowerAverage) -> PostHoc:
    """Weights of ``snapshots`` whose combination is nearest to ``target``; exact if it is there.

    Raises ValueError without snapshots, for a step below 1 or a width out of range.
    """
    if not snapshots or min(average.step for average in [*snapshots, target]) < 1:
        raise ValueError("give at least one snapshot, and steps from 1 on")
    gram = _inner_products([*snapshots, target])  # in units of 1/step
    scale = gram.diagonal().rsqrt()
    cosines = gram * scale * scale[:, None]  # between profiles of length 1
    row = scale[:-1] / scale[:-1].max()  # the condition: weights / scale sum to a constant
    zero = row.new_zeros(1)
    system = torch.cat(
        [torch.cat([cosines[:-1, :-1], row[:, None]], 1), torch.cat([row, zero])[None]]
    )
    right = torch.cat([cosines[:-1, -1], scale[-1:] / scale[:-1].max()])
    # Snapshots may repeat each other: of all solutions, the smallest.
    solved = torch.linalg.pinv(system, rtol=1e-13, hermitian=True) @ right
    mixed = torch.cat([solved[:-1], -solved.new_ones(1)])
    error = (mixed @ cosines @ mixed).clamp(min=0).sqrt()
    return PostHoc(solved[:-1] * scale[:-1] / scale[-1], float(error))


def _inner_products(averages: Sequence[PowerAverage]) -> Tensor:
    """(N,N) float64: integrals of p_i p_j over all times.

    With s <= t and the exponent b of the later one: (a+1)(b+1) / (a+b+1) (s/t)^b / t.
    """
    t = torch.tensor([average.step for average in averages], dtype=torch.float64)
    k = torch.tensor([power_exponent(average.width) for average in averages], dtype=torch.float64)
    earlier, later = torch.minimum(t, t[:, None]), torch.maximum(t, t[:, None])
    of_later = torch.where(t >= t[:, None], k, k[:, None])
    ratio = (k + 1) * (k[:, None] + 1) / (k + k[:, None] + 1)
    return ratio * (earlier / later) ** of_later / later
