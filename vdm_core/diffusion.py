"""The forward process q(z_t | x) and the posterior of one step q(z_s | z_t, x), s < t.

Everything is a function of gamma, the negative log-SNR (Kingma et al. 2021, section 3.1):

    alpha^2 = sigmoid(-gamma)        sigma^2 = sigmoid(gamma)        z_t = alpha x + sigma epsilon

Differences that would cancel are written with expm1, so that float32 gamma in [-15, 15] gives every
coefficient to a relative error below 1e-6. ``gamma`` may be (B,), one per example, or already have
as many dimensions as z.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vdm_core.records import Noised


def alpha_sigma(gamma: Tensor, like: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """alpha and sigma, shaped like ``gamma``, with dimensions added to broadcast to ``like``."""
    if like is not None:
        gamma = broadcast(gamma, like)
    return torch.sigmoid(-gamma).sqrt(), torch.sigmoid(gamma).sqrt()


def broadcast(coefficient: Tensor, like: Tensor) -> Tensor:
    """A per-example ``coefficient`` (B,) as (B,1,1,1), to multiply ``like`` (B,C,H,W)."""
    return coefficient.reshape(coefficient.shape + (1,) * (like.ndim - coefficient.ndim))


def image_mean(gamma: Tensor) -> Tensor:
    """(B,) of a ``gamma`` (B,) or (B,C,H,W): what a network is told of a gamma for each pixel."""
    return gamma if gamma.ndim == 1 else gamma.flatten(1).mean(1)


def diffuse(x: Tensor, gamma: Tensor, noise: Tensor) -> Noised:
    """z_t = alpha x + sigma noise: a draw of q(z_t | x) for scaled data ``x`` (B,C,H,W)."""
    alpha, sigma = alpha_sigma(gamma, like=x)
    return Noised(z=alpha * x + sigma * noise, gamma=gamma, noise=noise)


class Posterior(NamedTuple):
    """q(z_s | z_t, x) = N(from_z z_t + from_x x, std^2 I): three coefficients shaped like gamma."""

    from_z: Tensor
    from_x: Tensor
    std: Tensor


def posterior(gamma_s: Tensor, gamma_t: Tensor) -> Posterior:
    """The coefficients of q(z_s | z_t, x) for gamma_s <= gamma_t (VDM, appendix A.2).

    With c = sigma_{t|s}^2 / sigma_t^2 = -expm1(gamma_s - gamma_t) and alpha_{t|s} = alpha_t /
    alpha_s: from_z = alpha_{t|s} sigma_s^2 / sigma_t^2, from_x = alpha_s c, std^2 = sigma_s^2 c.
    All are at most 1. Where x is an estimate x_hat, this is a step of ancestral sampling.
    """
    alpha_s, sigma_s = alpha_sigma(gamma_s)
    alpha_t, sigma_t = alpha_sigma(gamma_t)
    c = -torch.expm1(gamma_s - gamma_t)
    return Posterior(
        from_z=alpha_t / alpha_s * (sigma_s / sigma_t).square(),
        from_x=alpha_s * c,
        std=sigma_s * c.sqrt(),
    )
