"""How noisy the one-time estimate of the diffusion term is, for any schedule, from one profile.

Training sees an image at one time: L = gamma'(t) e(gamma(t)) / 2 with e = |epsilon - epsilon_hat|^2
and t uniform (Kingma et al. 2021, equation 17). Its mean depends on the ends of gamma alone. Its
variance does not (appendix I.2): with M_k(gamma) = E[e^k] over images and noise,

    E[L^2] = 1/4 integral of gamma' M_2 dgamma  >=  1/4 (integral of sqrt(M_2) dgamma)^2,

with equality for the schedule whose slope goes like 1 / sqrt(M_2). So the profile, which knows M_1
and M_2 on a grid of gammas, gives the variance of a learned schedule, of the straight line between
the same ends, and of the best schedule there is for this network.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vdm_core.likelihood.profile import Estimate, check_rising
from vdm_core.schedule import Schedule


class TimeVariance(NamedTuple):
    """Var(L) in nats^2 at independent uniform times, each 0-dim, and the ratios that matter.

    ``gain``: linear over learned. ``possible``: linear over best, the most that any shape gains.
    Both with the jackknife's standard error over images.
    """

    linear: Tensor
    learned: Tensor
    best: Tensor
    gain: Estimate
    possible: Estimate


@torch.no_grad()
def time_variance(
    schedule: Schedule, gammas: Tensor, errors: Tensor, points: int = 4097
) -> TimeVariance:
    """The variances from ``errors`` (B,N) of ``error_profile`` at ``gammas`` (N,).

    ``gammas`` reach from gamma(0) to gamma(1) of ``schedule``. Integrals take M_1, M_2 and their
    roots as straight between the gammas, and the schedule at ``points`` times. Raises ValueError
    for gammas that do not rise, fewer than three images, and a schedule with a gamma for each
    pixel.
    """
    check_rising(gammas)
    if schedule.per_pixel:
        raise ValueError("time_variance needs a schedule with one gamma for all pixels")
    if len(errors) < 3:
        raise ValueError(f"errors holds {len(errors)} images: the jackknife needs 3 or more")
    gammas, errors = gammas.double().cpu(), errors.double().cpu()
    trapezium = _trapezium(gammas)
    weights = _slope_weights(schedule, gammas, points)
    count, total, squares = len(errors), errors.sum(0), errors.square().sum(0)
    m_1 = torch.stack([total / count, *((total - errors) / (count - 1))])
    m_2 = torch.stack([squares / count, *((squares - errors.square()) / (count - 1))])
    mean = m_1 @ trapezium / 2
    linear = (gammas[-1] - gammas[0]) * (m_2 @ trapezium) / 4 - mean.square()
    learned = m_2 @ weights / 4 - mean.square()
    best = (m_2.sqrt() @ trapezium).square() / 4 - mean.square()
    gain, possible = _jackknife(linear / learned), _jackknife(linear / best)
    return TimeVariance(linear[0], learned[0], best[0], gain, possible)


def _trapezium(gammas: Tensor) -> Tensor:
    """(N,): the integral of a line through values at the gammas is their product with these."""
    widths = gammas.diff()
    zero = widths.new_zeros(1)
    return (torch.cat([zero, widths]) + torch.cat([widths, zero])) / 2


def _slope_weights(schedule: Schedule, gammas: Tensor, points: int) -> Tensor:
    """(N,): values at the gammas to the integral over t of gamma'^2 times the line through them."""
    device = next((parameter.device for parameter in schedule.parameters()), torch.device("cpu"))
    t = torch.linspace(0, 1, points, dtype=torch.float64, device=device)
    gamma, slope = (part.double().cpu() for part in schedule(t))
    right = torch.searchsorted(gammas, gamma).clamp(1, len(gammas) - 1)
    low, high = gammas[right - 1], gammas[right]
    share = ((gamma - low) / (high - low)).clamp(0, 1)
    mass = slope.square() * _trapezium(t.cpu())
    weights = torch.zeros_like(gammas)
    weights.index_add_(0, right, mass * share)
    return weights.index_add_(0, right - 1, mass * (1 - share))


def _jackknife(values: Tensor) -> Estimate:
    """Of the whole and then of the whole without each image, (1 + B,) -> value and error."""
    whole, parts = values[0], values[1:]
    spread = (parts - parts.mean()).square().sum() * (len(parts) - 1) / len(parts)
    return Estimate(whole, spread.sqrt())
