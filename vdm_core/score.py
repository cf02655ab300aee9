"""The same weights as a score model: s(z, gamma) = grad_z log q(z) = -epsilon_hat / sigma.

With the forward process as an SDE, dz = f z dt + g dw, where

    f = -1/2 sigma^2 gamma'(t)        g^2 = sigma^2 gamma'(t)

the score is all that its two reversals need (Song et al. 2021):

    reverse SDE             dz = (f z - g^2 s) dt + g dw
    probability-flow ODE    dz = (f z - 1/2 g^2 s) dt

The samplers solve these already: `ancestral` and `pc` the first, `ddim`, `heun` and `dpmpp_2m` the
second. They take any score model by way of `denoiser_of`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from vdm_core.denoiser import Denoiser, Gamma, coefficients
from vdm_core.diffusion import alpha_sigma, broadcast

Score = Callable[[Tensor, Gamma, Tensor | None], Tensor]
"""z (B,C,H,W), gamma, labels (B,) int64 or None -> grad_z log q(z | gamma) (B,C,H,W)."""


def score_of(denoiser: Denoiser) -> Score:
    """The score of a denoiser, guided or not: -epsilon_hat / sigma."""

    def score(z: Tensor, gamma: Gamma, labels: Tensor | None) -> Tensor:
        _, sigma = coefficients(gamma)
        return -denoiser(z, gamma, labels) / sigma

    return score


def denoiser_of(score: Score) -> Denoiser:
    """The denoiser of a score, for samplers and guidance: epsilon_hat = -sigma s."""

    def denoiser(z: Tensor, gamma: Gamma, labels: Tensor | None) -> Tensor:
        _, sigma = coefficients(gamma)
        return -sigma * score(z, gamma, labels)

    return denoiser


def tweedie(score: Tensor, z: Tensor, gamma: Gamma) -> Tensor:
    """E[x | z] = (z + sigma^2 s) / alpha (B,C,H,W), from the score at ``z`` (Efron 2011)."""
    alpha, sigma = coefficients(gamma)
    return (z + sigma**2 * score) / alpha


def denoising_score_matching(score: Tensor, noise: Tensor, gamma: Tensor, weight: Tensor) -> Tensor:
    """1/2 ``weight`` |s - grad_z log q(z | x)|^2 of each example, (B,) (Vincent 2011).

    ``score`` at z = alpha x + sigma ``noise``, both (B,C,H,W), where grad_z log q(z | x) is
    -noise / sigma; ``gamma`` and ``weight`` (B,). With the weight g^2 =
    sigma^2 gamma'(t), the likelihood weighting of Song et al. 2021b, it is the VDM's diffusion term
    in continuous time.
    """
    _, sigma = alpha_sigma(gamma, like=score)
    error = score + noise / sigma
    return 0.5 * weight * error.square().flatten(1).sum(1)


class Sde(NamedTuple):
    """f and g^2 of dz = f z dt + g dw, shaped like gamma."""

    f: Tensor
    g_squared: Tensor


def forward_sde(gamma: Tensor, slope: Tensor) -> Sde:
    """The SDE of the forward process where the schedule has this ``gamma`` and ``slope``."""
    g_squared = torch.sigmoid(gamma) * slope
    return Sde(f=-0.5 * g_squared, g_squared=g_squared)


def reverse_sde_drift(z: Tensor, score: Tensor, sde: Sde) -> Tensor:
    """f z - g^2 s (B,C,H,W): the drift of z in time, to be followed from t = 1 to 0, with noise g.

    Song et al. 2021, equation 6. ``sde``: (B,) each.
    """
    f, g_squared = (broadcast(value, z) for value in sde)
    return f * z - g_squared * score


def probability_flow_drift(z: Tensor, score: Tensor, sde: Sde) -> Tensor:
    """f z - 1/2 g^2 s (B,C,H,W): dz/dt without noise, with the same marginals.

    Song et al. 2021, equation 13. ``sde``: (B,) each.
    """
    f, g_squared = (broadcast(value, z) for value in sde)
    return f * z - 0.5 * g_squared * score


def gaussian_score(z: Tensor, gamma: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """The score of data from N(``mean``, ``covariance``), (D,) and (D,D): exact, as a reference.

    z is N(alpha mean, alpha^2 covariance + sigma^2 I), so that the score of ``z`` (B,C,H,W), D =
    C H W, at ``gamma`` (B,) is -(alpha^2 covariance + sigma^2 I)^-1 (z - alpha mean).
    """
    alpha, sigma = (c[:, None] for c in alpha_sigma(gamma))
    identity = torch.eye(len(mean), dtype=z.dtype, device=z.device)
    marginal = alpha[..., None].square() * covariance + sigma[..., None].square() * identity
    centred = z.flatten(1) - alpha * mean
    score: Tensor = -torch.linalg.solve(marginal, centred)
    return score.view_as(z)
