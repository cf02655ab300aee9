"""The predictor-corrector sampler: reverse SDE, then Langevin steps at the gamma reached."""

from collections.abc import Iterator
from itertools import count

from torch import Tensor

from vdm_core.denoiser import Denoiser, Gamma, coefficients
from vdm_core.samplers.contract import Noise, each
from vdm_core.samplers.first_order import ancestral_steps


def pc(
    denoiser: Denoiser,
    z: Tensor,
    labels: Tensor | None,
    gammas: Tensor,
    noise: Noise,
    *,
    snr: float = 0.16,
    corrector_steps: int = 1,
) -> Iterator[Tensor]:
    """Predictor-corrector sampling (Song et al. 2021, score-based SDEs, algorithm 1).

    The predictor is the ancestral step: the reverse SDE solved exactly over the step with x_hat
    held. The corrector is `langevin_step` at gamma_s, so a step takes 1 + corrector_steps network
    calls and draws. For other settings give `sample` a `functools.partial` of this function.

    Args:
        denoiser, z, labels, gammas, noise: as for every `Sampler`.
        snr: the corrector's signal-to-noise ratio r, in (0, 1).
        corrector_steps: Langevin steps after each predictor step; with 0 this is `ancestral`.

    Raises:
        ValueError: snr or corrector_steps out of range.
    """
    if not 0 < snr < 1:
        raise ValueError(f"snr is {snr}; give a number in (0, 1): from 1 up Langevin steps diverge")
    if corrector_steps < 0:
        raise ValueError(f"corrector_steps is {corrector_steps}; give 0 or more")
    draws = map(noise, count())
    for step, gamma_s in zip(ancestral_steps(gammas, z), each(gammas[1:], z), strict=True):
        epsilon = denoiser(z, step.gamma, labels)
        z = step.from_z * z + step.from_epsilon * epsilon + step.std * next(draws)
        for _ in range(corrector_steps):
            z = langevin_step(denoiser, z, labels, gamma_s, next(draws), snr)
        yield z


def langevin_step(
    denoiser: Denoiser, z: Tensor, labels: Tensor | None, gamma: Gamma, noise: Tensor, snr: float
) -> Tensor:
    """One step of Langevin dynamics on q(z | gamma): z + delta score + sqrt(2 delta) noise.

    The step size is delta = 2 (snr sigma)^2: that of Song et al. (algorithm 5, without alpha_i) is
    2 (snr |noise| / |score|)^2, and |noise| / |score| is sigma where epsilon_hat is as long as the
    noise. So it is a number, no sample depends on its batch, and on Gaussian data the step is
    affine: the variance v of z along an eigenvector settles at v / (1 - delta / (2 v)), too much by
    a fraction of at most snr^2 / (1 - snr^2), as v >= sigma^2.
    """
    _, sigma = coefficients(gamma)
    scale = 2 * snr * sigma
    return z - snr * scale * denoiser(z, gamma, labels) + scale * noise
