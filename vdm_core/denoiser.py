"""The one contract between networks, guidance and samplers: (z, gamma, labels) -> epsilon_hat.

Whatever a VDM's network predicts, here it becomes epsilon_hat; what changes a prediction, such as
guidance or clipping, takes a denoiser and returns a denoiser.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from vdm_core.diffusion import alpha_sigma
from vdm_core.prediction import to_epsilon
from vdm_core.vdm import VDM

Denoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""z (B,C,H,W), gamma (B,), labels (B,) int64 or None -> epsilon_hat (B,C,H,W)."""


def epsilon_denoiser(vdm: VDM) -> Denoiser:
    """Return the denoiser of a VDM; its epsilon_hat is in z's dtype, also under autocast."""

    def denoiser(z: Tensor, gamma: Tensor, labels: Tensor | None) -> Tensor:
        prediction = vdm.network(z, gamma, labels).to(z.dtype)
        return to_epsilon(prediction, z, gamma, vdm.prediction)

    return denoiser


def clip_data(denoiser: Denoiser, bound: float = 1.0) -> Denoiser:
    """Return the denoiser whose x_hat = (z - sigma epsilon_hat) / alpha stays within +-bound.

    Where x_hat is within already, epsilon_hat is passed on as it is.
    """

    def clipped(z: Tensor, gamma: Tensor, labels: Tensor | None) -> Tensor:
        epsilon = denoiser(z, gamma, labels)
        alpha, sigma = alpha_sigma(gamma, like=z)
        x = (z - sigma * epsilon) / alpha
        return torch.where(x.abs() > bound, (z - alpha * x.clamp(-bound, bound)) / sigma, epsilon)

    return clipped
