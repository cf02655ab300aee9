"""p(x | latents) over the levels of each pixel: a discretised Gaussian with a learned variance.

The level x_k has probability proportional to N(x_k; mean, exp(gamma)). It is the family of the
VDM's decoder (Kingma et al. 2021, section 3.3), where z_0 / alpha_0 is the mean and gamma_0 the log
variance, so that bits/dim of all models here are of one kind.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from vdm_core import decoder
from vdm_core.diffusion import alpha_sigma


class PixelLikelihood(NamedTuple):
    """``mean`` of the scaled pixel and its log variance ``gamma``, both (B,C,H,W)."""

    mean: Tensor
    gamma: Tensor

    def nll(self, images: Tensor, levels: int, *, within: int | None = None) -> Tensor:
        """-log p of ``images`` (B,C,H,W) uint8, (B,) nats.

        ``within``: as for ``decoder.log_prob``, but None is all levels: some pixels are as wide.
        """
        reach = levels - 1 if within is None else within
        return -decoder.log_prob(images, self._z_0(), self.gamma, levels, within=reach)

    def decode(self, levels: int, *, uniforms: Tensor | None = None) -> Tensor:
        """The likeliest images (B,C,H,W) uint8, or, given ``uniforms`` (B,C,H,W), a draw."""
        return decoder.decode(self._z_0(), self.gamma, levels, uniforms=uniforms)

    def _z_0(self) -> Tensor:
        alpha, _ = alpha_sigma(self.gamma)
        return alpha * self.mean
