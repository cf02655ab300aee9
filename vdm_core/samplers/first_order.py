"""Samplers with one network call per step, of first order: ancestral and DDIM."""

from collections.abc import Iterator
from typing import NamedTuple

from torch import Tensor

from vdm_core.denoiser import Denoiser, Gamma
from vdm_core.diffusion import alpha_sigma, posterior
from vdm_core.samplers.contract import Noise, each


def ancestral(
    denoiser: Denoiser, z: Tensor, labels: Tensor | None, gammas: Tensor, noise: Noise
) -> Iterator[Tensor]:
    """Draw z_s from q(z_s | z_t, x = x_hat) at each step (Kingma et al. 2021, section 3.3)."""
    for number, step in enumerate(ancestral_steps(gammas, z)):
        epsilon = denoiser(z, step.gamma, labels)
        z = step.from_z * z + step.from_epsilon * epsilon + step.std * noise(number)
        yield z


def ddim(
    denoiser: Denoiser, z: Tensor, labels: Tensor | None, gammas: Tensor, noise: Noise
) -> Iterator[Tensor]:
    """Set z_s = alpha_s x_hat + sigma_s epsilon_hat at each step.

    Song, Meng and Ermon 2021, with eta = 0: no noise is drawn after z_1. This is Euler's method for
    the probability-flow ODE in z / alpha as a function of sigma / alpha.
    """
    alpha, sigma = alpha_sigma(gammas)
    ratio = alpha[1:] / alpha[:-1]
    from_epsilon = sigma[1:] - ratio * sigma[:-1]
    columns = (each(c, z) for c in (gammas[:-1], ratio, from_epsilon))
    for gamma, a, b in zip(*columns, strict=True):
        z = a * z + b * denoiser(z, gamma, labels)
        yield z


class AncestralStep(NamedTuple):
    """z_s = from_z z_t + from_epsilon epsilon_hat(z_t, gamma) + std noise."""

    gamma: Gamma
    from_z: Gamma
    from_epsilon: Gamma
    std: Gamma


def ancestral_steps(gammas: Tensor, z: Tensor) -> list[AncestralStep]:
    """The coefficients of each step of ancestral sampling of ``z`` along a sampler's gammas."""
    gamma_t, gamma_s = gammas[:-1], gammas[1:]
    alpha_t, sigma_t = alpha_sigma(gamma_t)
    q = posterior(gamma_s, gamma_t)
    from_z = q.from_z + q.from_x / alpha_t
    from_epsilon = -q.from_x * sigma_t / alpha_t
    columns = (each(c, z) for c in (gamma_t, from_z, from_epsilon, q.std))
    return [AncestralStep(*row) for row in zip(*columns, strict=True)]
