"""The three terms of the negative ELBO, each (B,) in nats (Kingma et al. 2021, sections 4 and 5).

    reconstruction  -log p(x | z_0)                                             equation 11
    prior           KL(q(z_1 | x) || N(0, I))                                   equation 11
    diffusion       1/2 w |epsilon - epsilon_hat(z_t, gamma_t)|^2               equations 14 and 17

Discrete and continuous time differ in the weight w alone: T (exp(gamma_t - gamma_s) - 1) for a step
from s = (i - 1) / T to t = i / T, and d gamma / d t, its limit for T to infinity. Where each pixel
has a gamma of its own, every formula holds elementwise, before the sum over the image.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_core import decoder
from vdm_core.diffusion import broadcast, image_mean
from vdm_core.prediction import Prediction, noise_error, squared_error
from vdm_core.records import SchedulePoint


class NoiseLevels(NamedTuple):
    """Where the ELBO looks at the schedule: ``gamma_0`` and ``gamma_1`` (1,), and for each example
    ``gamma_t`` (B,) and the ``weight`` (B,) of its diffusion term.

    All have (C,H,W) added for a schedule with a gamma for each pixel, and start with B for one that
    also depends on the example.
    """

    gamma_0: Tensor
    gamma_1: Tensor
    gamma_t: Tensor
    weight: Tensor

    @property
    def network_gamma(self) -> Tensor:
        """What a network is told of ``gamma_t``: the mean over the image, (B,)."""
        return image_mean(self.gamma_t)


def noise_levels(
    schedule: Callable[..., SchedulePoint],
    times: Tensor,
    steps: int | None,
    dtype: torch.dtype = torch.float32,
    latent: Tensor | None = None,
) -> NoiseLevels:
    """Evaluate ``schedule`` once, at the ends of time and at ``times`` (B,) in [0, 1].

    With ``steps`` = T, a time u stands for step i = floor(u T) + 1, at most T. The schedule is
    evaluated in float64: it is a handful of numbers, and the weight of a step is a difference of
    neighbours among them. The results are ``dtype``. ``latent`` (B,d): for an adaptive schedule.
    """
    zero, one = torch.arange(2, dtype=torch.float64, device=times.device)[:, None]
    if steps is None:
        gamma, slope = _at(schedule, (zero, one, times.double()), latent)
        gamma_t, weight = gamma[2], slope[2]
    else:
        i = (times * steps).floor().clamp(max=steps - 1).double() + 1
        gamma, _ = _at(schedule, (zero, one, i / steps, (i - 1) / steps), latent)
        gamma_t, weight = gamma[2], steps * torch.expm1(gamma[2] - gamma[3])
    return NoiseLevels(*(value.to(dtype) for value in (gamma[0], gamma[1], gamma_t, weight)))


def _at(
    schedule: Callable[..., SchedulePoint], times: tuple[Tensor, ...], latent: Tensor | None
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """gamma and slope at each of ``times``, (1,) or (B,), by one call: given a latent, of rows."""
    if latent is None:
        point = schedule(torch.cat(times))
        lengths = [len(t) for t in times]
        return torch.split(point.gamma, lengths), torch.split(point.slope, lengths)
    point = schedule(torch.stack([t.expand(len(latent)) for t in times]), latent)
    return point.gamma.unbind(), point.slope.unbind()


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
    """1/2 ``weight`` |epsilon - epsilon_hat|^2, (B,), from the network's prediction ``p``.

    With a ``weight`` for each pixel, (B,C,H,W), 1/2 sum_i weight_i (epsilon_i - epsilon_hat_i)^2.
    """
    if weight.ndim == 1:
        return 0.5 * weight * squared_error(p, x, noise, gamma_t, prediction)
    error = noise_error(p, x, noise, gamma_t, prediction)
    return 0.5 * (weight * error.square()).flatten(1).sum(1)
