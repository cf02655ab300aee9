"""The three terms of the negative ELBO, each (B,) in nats (Kingma et al. 2021, sections 4 and 5).

    reconstruction  -log p(x | z_0)                                             equation 11
    prior           KL(q(z_1 | x) || N(0, I))                                   equation 11
    diffusion       1/2 w |epsilon - epsilon_hat(z_t, gamma_t)|^2               equations 14 and 17

Discrete and continuous time differ in the weight w alone: T (exp(gamma_t - gamma_s) - 1) for a step
from s = (i - 1) / T to t = i / T, and d gamma / d t, its limit for T to infinity.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_core import decoder
from vdm_core.diffusion import broadcast
from vdm_core.prediction import Prediction, squared_error
from vdm_core.records import SchedulePoint


class NoiseLevels(NamedTuple):
    """Where the ELBO looks at the schedule: ``gamma_0`` and ``gamma_1`` (1,), and for each example
    ``gamma_t`` (B,) and the ``weight`` (B,) of its diffusion term.
    """

    gamma_0: Tensor
    gamma_1: Tensor
    gamma_t: Tensor
    weight: Tensor


def noise_levels(
    schedule: Callable[[Tensor], SchedulePoint],
    times: Tensor,
    steps: int | None,
    dtype: torch.dtype = torch.float32,
) -> NoiseLevels:
    """Evaluate ``schedule`` once, at the ends of time and at ``times`` (B,) in [0, 1].

    With ``steps`` = T, a time u stands for step i = floor(u T) + 1, at most T. The schedule is
    evaluated in float64: it is a handful of numbers, and the weight of a step is a difference of
    neighbours among them. The results are ``dtype``.
    """
    ends = torch.arange(2, dtype=torch.float64, device=times.device)
    if steps is None:
        point = schedule(torch.cat([ends, times.double()]))
        gamma_t, weight = point.gamma[2:], point.slope[2:]
    else:
        i = (times * steps).floor().clamp(max=steps - 1).double() + 1
        point = schedule(torch.cat([ends, i / steps, (i - 1) / steps]))
        gamma_t, gamma_s = point.gamma[2:].chunk(2)
        weight = steps * torch.expm1(gamma_t - gamma_s)
    values = (point.gamma[:1], point.gamma[1:2], gamma_t, weight)
    return NoiseLevels(*(value.to(dtype) for value in values))


def reconstruction(
    images: Tensor, z_0: Tensor, gamma_0: Tensor, levels: int, *, within: int | None = None
) -> Tensor:
    """-log p(x | z_0), (B,), of ``images`` (B,C,H,W) uint8; ``within`` as for the decoder."""
    return -decoder.log_prob(images, z_0, gamma_0, levels, within=within)


def prior(x: Tensor, gamma_1: Tensor) -> Tensor:
    """KL(q(z_1 | x) || N(0, I)) = 1/2 sum(alpha^2 x^2 + sigma^2 - 1 - log sigma^2), (B,).

    With alpha^2 = 1 - sigma^2 = sigmoid(-gamma_1) and -log sigma^2 = softplus(-gamma_1).
    """
    gamma_1 = broadcast(gamma_1, x)
    terms = torch.sigmoid(-gamma_1) * (x.square() - 1) + F.softplus(-gamma_1)
    return 0.5 * terms.flatten(1).sum(1)


def diffusion(
    p: Tensor, x: Tensor, noise: Tensor, gamma_t: Tensor, weight: Tensor, prediction: Prediction
) -> Tensor:
    """1/2 ``weight`` |epsilon - epsilon_hat|^2, (B,), from the network's prediction ``p``."""
    return 0.5 * weight * squared_error(p, x, noise, gamma_t, prediction)
