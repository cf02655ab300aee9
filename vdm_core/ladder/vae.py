"""The variational autoencoder: one latent z, with q(z | x) and p(x | z) learned, p(z) = N(0, I).

Kingma and Welling 2014. The first rung of the ladder:

    -log p(x) <= E_q[-log p(x | z)] + KL(q(z | x) || p(z)).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from vdm_core.decoder import encode as encode_levels
from vdm_core.family import Draw
from vdm_core.inputs import check_images, check_label_shape, check_noise
from vdm_core.ladder.bound import free_bits, hierarchical_terms
from vdm_core.ladder.gaussian import Gaussian, standard_normal
from vdm_core.ladder.networks import (
    Exit,
    GaussianNet,
    ImageDecoder,
    ImageEncoder,
    LatentGrid,
    full_precision,
)
from vdm_core.ladder.pixels import PixelLikelihood
from vdm_core.records import HierarchicalElboTerms
from vdm_core.rng import Purpose


class VAE(nn.Module):
    """Images (B,C,H,W) with one latent (B,c,h,w), h = H / 2^(len(widths) - 1).

    Args:
        channels: image channels C.
        latent_channels: c.
        widths: feature maps from full resolution down; each level halves it.
        blocks: residual blocks of each level, in the encoder and in the decoder.
        classes: number of classes that q(z | x, y) and p(x | z, y) are told, or None.
        levels: how many values a channel of the images takes, 2 to 256.
        free_nats: nats per example that z may carry without being pulled back, see ``free_bits``.

    Raises:
        ValueError: no width, no latent channel, or levels or free_nats out of range.
    """

    def __init__(
        self,
        channels: int,
        latent_channels: int = 8,
        widths: Sequence[int] = (32, 64, 64),
        blocks: int = 2,
        classes: int | None = None,
        levels: int = 256,
        free_nats: float = 0.0,
    ) -> None:
        super().__init__()
        check_settings(levels, free_nats)
        self.grid = LatentGrid(latent_channels, len(widths))
        self.classes = classes
        self.levels = levels
        self.free_nats = free_nats
        self.features = ImageEncoder(channels, widths, blocks, classes)
        self.posterior = GaussianNet(widths[-1], latent_channels, widths[-1], blocks, classes)
        self.likelihood = ImageDecoder(latent_channels, channels, widths, blocks, classes)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the terms: float64 if the module is, else float32."""
        return torch.promote_types(self.features.entry.conv.weight.dtype, torch.float32)

    @property
    def schedule(self) -> None:
        """There is no noise schedule here."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Encoder and decoder."""
        return self.features, self.posterior, self.likelihood

    @property
    def islands(self) -> tuple[nn.Module, ...]:
        """The last layers, whose answers are numbers of the bound."""
        return tuple(module for module in self.modules() if isinstance(module, Exit))

    @property
    def term_names(self) -> tuple[str, ...]:
        """The names of the terms that ``forward`` returns, in their order."""
        return "reconstruction", "prior"

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(c,h,w) of z for images (C,H,W). Raises ValueError where H or W does not divide."""
        return self.grid.shape(shape)

    def draws(self, shape: tuple[int, int, int]) -> dict[str, Draw]:
        """The random arguments of ``forward`` for images of this ``shape``, (C,H,W), by name."""
        return {"noise_encoder": Draw(Purpose.ENCODER, self.latent_shape(shape))}

    def encode(self, images: Tensor, labels: Tensor | None = None) -> Gaussian:
        """q(z | x) for ``images`` (B,C,H,W) uint8 with ``labels`` (B,) int64 or None."""
        q: Gaussian = self.posterior(
            self.features(encode_levels(images, self.levels, self.dtype), labels), labels
        )
        return q

    def decode(self, z: Tensor, labels: Tensor | None = None) -> PixelLikelihood:
        """p(x | z) for ``z`` (B,c,h,w)."""
        p: PixelLikelihood = self.likelihood(z, labels)
        return p

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        noise_encoder: Tensor,
        decoder_radius: int | None = None,
    ) -> HierarchicalElboTerms:
        """The ELBO terms of ``images`` (B,C,H,W) uint8 with ``labels`` (B,) int64 or None.

        ``noise_encoder``: (B,c,h,w) standard normals of z. ``decoder_radius``: ``within`` of
        ``PixelLikelihood.nll``. Raises TypeError or ValueError for a wrong dtype or shape.
        """
        check_inputs(self, images, labels, noise_encoder)
        q = self.encode(images, labels)
        z = q.sample(noise_encoder.to(self.dtype))
        kl = free_bits(q.kl(standard_normal(z)), self.free_nats)
        p = self.decode(z, labels)
        with full_precision(images):
            return hierarchical_terms(p.nll(images, self.levels, within=decoder_radius), [kl])

    def generate(self, noise: Tensor, labels: Tensor | None = None) -> PixelLikelihood:
        """p(x | z) at z = ``noise`` (B,c,h,w), drawn from p(z) = N(0, I)."""
        return self.decode(noise, labels)


def check_settings(levels: int, free_nats: float) -> None:
    """Raise ValueError for ``levels`` outside 2 to 256 and negative ``free_nats``."""
    if not 2 <= levels <= 256:
        raise ValueError(f"levels is {levels}: uint8 images have 2 to 256 levels")
    if not free_nats >= 0:
        raise ValueError(f"free_nats is {free_nats}: give 0 (the ELBO itself) or more")


class _WithLatents(Protocol):
    @property
    def levels(self) -> int: ...
    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]: ...


def check_inputs(
    model: _WithLatents, images: Tensor, labels: Tensor | None, noise_encoder: Tensor
) -> None:
    """Raise TypeError or ValueError for arguments that do not fit ``model`` or one another."""
    check_images(images, model.levels)
    check_label_shape(labels, len(images))
    batch, channels, height, width = images.shape
    latent = model.latent_shape((channels, height, width))
    check_noise(noise_encoder, "noise_encoder", (batch, *latent))
