"""The one contract between networks, guidance and samplers: (z, gamma, labels) -> epsilon_hat.

Whatever a VDM's network predicts, here it becomes epsilon_hat; what changes a prediction, such as
guidance or clipping, takes a denoiser and returns a denoiser.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vdm_core.diffusion import alpha_sigma, image_mean
from vdm_core.labels import StatesClasses
from vdm_core.prediction import to_epsilon
from vdm_core.vdm import VDM

Gamma = float | Tensor
"""One number for the whole batch, or a map: one for each pixel, (B,C,H,W) or (1,C,H,W) like z.

A number is the host's, so that a denoiser may branch on it without waiting for an accelerator.
"""

Denoiser = Callable[[Tensor, Gamma, Tensor | None], Tensor]
"""z (B,C,H,W), gamma, labels (B,) int64 or None -> epsilon_hat (B,C,H,W)."""


def epsilon_denoiser(vdm: VDM) -> Denoiser:
    """Return the denoiser of a VDM; its epsilon_hat is in z's dtype, also under autocast.

    A network that states that it is unconditional is shown no labels: they are the guidance's. Of a
    map of gammas a network is told the mean over the image, as in training.
    """
    network = vdm.network
    unconditional = isinstance(network, StatesClasses) and network.classes is None

    def denoiser(z: Tensor, gamma: Gamma, labels: Tensor | None) -> Tensor:
        gammas = per_example(gamma, z)
        told = image_mean(gammas)
        prediction = network(z, told, None if unconditional else labels).to(z.dtype)
        return to_epsilon(prediction, z, gammas, vdm.prediction)

    return denoiser


def per_example(gamma: Gamma, z: Tensor) -> Tensor:
    """gamma for each example of ``z``: (B,) of a number, (B,C,H,W) of a map."""
    if isinstance(gamma, Tensor):
        return gamma.to(z).expand_as(z)
    return z.new_full((len(z),), gamma)


def coefficients(gamma: Gamma) -> tuple[Gamma, Gamma]:
    """alpha and sigma: of a number, numbers of the host in double precision; of a map, maps."""
    if isinstance(gamma, Tensor):
        return alpha_sigma(gamma)
    alpha, sigma = alpha_sigma(torch.tensor(gamma, dtype=torch.float64, device="cpu"))
    return alpha.item(), sigma.item()


def clip_data(denoiser: Denoiser, bound: float = 1.0) -> Denoiser:
    """Return the denoiser whose x_hat = (z - sigma epsilon_hat) / alpha stays within +-bound.

    Where x_hat is within already, epsilon_hat is passed on as it is.
    """
    return _changing_data(denoiser, partial(torch.clamp, min=-bound, max=bound))


def threshold_data(denoiser: Denoiser, quantile: float = 0.995, bound: float = 1.0) -> Denoiser:
    """Return the denoiser whose x_hat is thresholded dynamically (Saharia et al. 2022).

    Each example's x_hat is clipped at +-s and multiplied by bound / s, where s is this quantile of
    its |x_hat|, or bound if that is more: no example changes another. The quantile of D values is
    the one of rank ceil(quantile D), without interpolation.

    Raises:
        ValueError: quantile outside (0, 1].
    """
    if not 0 < quantile <= 1:
        raise ValueError(f"quantile is {quantile}; give a number in (0, 1], such as 0.995")

    def threshold(x: Tensor) -> Tensor:
        sizes = x.abs().flatten(1)
        rank = max(1, math.ceil(quantile * sizes.shape[1]))
        s = sizes.kthvalue(rank, dim=1).values.clamp(min=bound)[:, None, None, None]
        return x.clamp(-s, s) * (bound / s)

    return _changing_data(denoiser, threshold)


def _changing_data(denoiser: Denoiser, change: Callable[[Tensor], Tensor]) -> Denoiser:
    """Return the denoiser whose x_hat is change(x_hat); where it is the same, so is epsilon_hat."""

    def changed(z: Tensor, gamma: Gamma, labels: Tensor | None) -> Tensor:
        epsilon = denoiser(z, gamma, labels)
        alpha, sigma = coefficients(gamma)
        x = (z - sigma * epsilon) / alpha
        wanted = change(x)
        return torch.where(wanted == x, epsilon, (z - alpha * wanted) / sigma)

    return changed
