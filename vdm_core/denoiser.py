"""The one contract between networks, guidance and samplers: (z, gamma, labels) -> epsilon_hat.

Whatever a VDM's network predicts, here it becomes epsilon_hat; what changes a prediction, such as
guidance or clipping, takes a denoiser and returns a denoiser.
"""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from vdm_core.diffusion import alpha_sigma
from vdm_core.labels import StatesClasses
from vdm_core.prediction import to_epsilon
from vdm_core.vdm import VDM

Denoiser = Callable[[Tensor, float, Tensor | None], Tensor]
"""z (B,C,H,W), gamma, labels (B,) int64 or None -> epsilon_hat (B,C,H,W).

gamma is one number for the whole batch, and the host's, so that a denoiser may branch on it without
waiting for an accelerator.
"""


def epsilon_denoiser(vdm: VDM) -> Denoiser:
    """Return the denoiser of a VDM; its epsilon_hat is in z's dtype, also under autocast.

    A network that states that it is unconditional is shown no labels: they are the guidance's.
    """
    network = vdm.network
    unconditional = isinstance(network, StatesClasses) and network.classes is None

    def denoiser(z: Tensor, gamma: float, labels: Tensor | None) -> Tensor:
        gammas = z.new_full((len(z),), gamma)
        prediction = network(z, gammas, None if unconditional else labels).to(z.dtype)
        return to_epsilon(prediction, z, gammas, vdm.prediction)

    return denoiser


def host_alpha_sigma(gamma: float) -> tuple[float, float]:
    """alpha and sigma at the host's gamma, as numbers of the host in double precision."""
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

    def changed(z: Tensor, gamma: float, labels: Tensor | None) -> Tensor:
        epsilon = denoiser(z, gamma, labels)
        alpha, sigma = host_alpha_sigma(gamma)
        x = (z - sigma * epsilon) / alpha
        wanted = change(x)
        return torch.where(wanted == x, epsilon, (z - alpha * wanted) / sigma)

    return changed
