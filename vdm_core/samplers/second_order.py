"""Samplers of second order for the probability-flow ODE: DPM-Solver++(2M) and Heun's method.

They draw no noise after z_1. The first takes one network call per step, the second two.
"""

import math
from collections.abc import Iterator
from itertools import pairwise

from torch import Tensor

from vdm_core.denoiser import Denoiser
from vdm_core.diffusion import alpha_sigma
from vdm_core.samplers.contract import Noise, check_numbers


def dpmpp_2m(
    denoiser: Denoiser, z: Tensor, labels: Tensor | None, gammas: Tensor, noise: Noise
) -> Iterator[Tensor]:
    """DPM-Solver++(2M), data prediction, two steps (Lu et al. 2022b, algorithm 2).

    With lambda = -gamma / 2, h the step in it and r = h_before / h, x_hat is extrapolated to the
    middle of the step, d = x_hat + (x_hat - x_hat_before) / (2 r), and then held:
    z_s = (sigma_s / sigma_t) z_t - alpha_s expm1(-h) d. The first step is DDIM's.
    """
    check_numbers("dpmpp_2m", gammas)
    alpha, sigma = (c.tolist() for c in alpha_sigma(gammas))
    h = (-0.5 * gammas.diff()).tolist()
    x_before = z  # of no weight in the first step
    for t, gamma in enumerate(gammas[:-1].tolist()):
        x = (z - sigma[t] * denoiser(z, gamma, labels)) / alpha[t]
        weight = 0.5 * h[t] / h[t - 1] if t else 0.0
        d = x + weight * (x - x_before)
        z = sigma[t + 1] / sigma[t] * z - alpha[t + 1] * math.expm1(-h[t]) * d
        x_before = x
        yield z


def heun(
    denoiser: Denoiser, z: Tensor, labels: Tensor | None, gammas: Tensor, noise: Noise
) -> Iterator[Tensor]:
    """Heun's method for dz/dgamma = (sigma epsilon_hat - sigma^2 z) / 2, two calls per step.

    The variables are z and gamma themselves. The linear term needs no exponential integrator, as
    epsilon_hat nearly cancels it: on Gaussian data of variance up to 1 the slope's derivative in z
    lies in [0, 1/2], and no step up to 4 in gamma is unstable. Every detail of the data takes about
    the same length of gamma to appear, whatever its size, while in sigma / alpha (Karras et al.
    2022) steps of equal length in gamma grow without bound: on a mixture of narrow Gaussians the
    error there is several times larger. Nor is anything divided by alpha, which at gamma = 5 would
    multiply an error of epsilon_hat by 12.
    """
    check_numbers("heun", gammas)
    _, sigma = (c.tolist() for c in alpha_sigma(gammas))

    def slope(z: Tensor, gamma: float, sigma: float) -> Tensor:
        return (0.5 * sigma) * (denoiser(z, gamma, labels) - sigma * z)

    for (gamma_t, sigma_t), (gamma_s, sigma_s) in pairwise(
        zip(gammas.tolist(), sigma, strict=True)
    ):
        h = gamma_s - gamma_t
        slope_t = slope(z, gamma_t, sigma_t)
        slope_s = slope(z + h * slope_t, gamma_s, sigma_s)
        z = z + 0.5 * h * (slope_t + slope_s)
        yield z
