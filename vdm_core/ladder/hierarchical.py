"""Hierarchical VAEs: latents z_T, ..., z_1 drawn one after the other, then the image.

In the hierarchical VAE each conditional sees all latents drawn before it; in the Markovian one, the
last alone (Luo 2022, section 2; Sohl-Dickstein et al. 2015 for the Markov chain):

                      q(z_t | ., x), p(z_t | .)       p(x | .)
    hierarchical      z_T, ..., z_{t+1}               z_T, ..., z_1
    Markovian         z_{t+1}                         z_1

A VDM is the Markovian one with latents of the image's size and an encoder that is fixed. The bound,
and why the encoder is written top down, is in `bound.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor, nn

from vdm_core.decoder import encode
from vdm_core.family import Draw
from vdm_core.ladder.bound import free_bits, hierarchical_terms, top_down
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
from vdm_core.ladder.vae import check_inputs, check_settings
from vdm_core.records import HierarchicalElboTerms
from vdm_core.rng import Purpose


class HierarchicalVAE(nn.Module):
    """Images (B,C,H,W) with T = ``depth`` latents (B,c,h,w), h = H / 2^(len(widths) - 1).

    The posterior of a latent is its prior, shifted and scaled by what the features of x add, so
    that at first their divergence is 0 (Vahdat and Kautz 2020, section 3.2).

    Args:
        channels: image channels C.
        depth: T.
        markovian: each conditional sees one latent and not all before it.
        latent_channels: c.
        widths: feature maps from full resolution down; each level halves it.
        blocks: residual blocks of each level and of each conditional.
        classes: number of classes that every conditional but p(z_T) is told, or None.
        levels: how many values a channel of the images takes, 2 to 256.
        free_nats: nats per example that each latent may carry without being pulled back, see
            ``free_bits``.

    Raises:
        ValueError: no width, no latent, or levels or free_nats out of range.
    """

    def __init__(
        self,
        channels: int,
        depth: int = 4,
        markovian: bool = False,
        latent_channels: int = 8,
        widths: Sequence[int] = (32, 64, 64),
        blocks: int = 1,
        classes: int | None = None,
        levels: int = 256,
        free_nats: float = 0.0,
    ) -> None:
        super().__init__()
        check_settings(levels, free_nats)
        if depth < 1:
            raise ValueError(f"depth is {depth}: a hierarchy needs at least 1 latent")
        self.grid = LatentGrid(latent_channels, len(widths))
        self.depth = depth
        self.markovian = markovian
        self.classes = classes
        self.levels = levels
        self.free_nats = free_nats
        seen = [latent_channels * self._count(drawn) for drawn in range(depth + 1)]
        net = partial(
            GaussianNet, outputs=latent_channels, width=widths[-1], blocks=blocks, classes=classes
        )
        self.features = ImageEncoder(channels, widths, blocks, classes)
        self.posteriors = nn.ModuleList(net(widths[-1] + inputs) for inputs in seen[:-1])
        self.priors = nn.ModuleList(net(inputs) for inputs in seen[1:-1])
        self.likelihood = ImageDecoder(seen[-1], channels, widths, blocks, classes)

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the terms: float64 if the module is, else float32."""
        return torch.promote_types(self.features.entry.conv.weight.dtype, torch.float32)

    @property
    def schedule(self) -> None:
        """There is no noise schedule here."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Those of all conditionals."""
        return self.features, *self.posteriors, *self.priors, self.likelihood

    @property
    def islands(self) -> tuple[nn.Module, ...]:
        """The last layers, whose answers are numbers of the bound."""
        return tuple(module for module in self.modules() if isinstance(module, Exit))

    @property
    def term_names(self) -> tuple[str, ...]:
        """The names of the terms that ``forward`` returns, in their order."""
        return "reconstruction", "prior", *(f"kl_{t}" for t in range(1, self.depth))

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, ...]:
        """(T,c,h,w) of all latents for images (C,H,W). ValueError where H or W does not divide."""
        return self.depth, *self.grid.shape(shape)

    def draws(self, shape: tuple[int, int, int]) -> dict[str, Draw]:
        """The random arguments of ``forward`` for images of this ``shape``, (C,H,W), by name."""
        return {"noise_encoder": Draw(Purpose.ENCODER, self.latent_shape(shape))}

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        noise_encoder: Tensor,
        decoder_radius: int | None = None,
    ) -> HierarchicalElboTerms:
        """The ELBO terms of ``images`` (B,C,H,W) uint8 with ``labels`` (B,) int64 or None.

        ``noise_encoder``: (B,T,c,h,w) standard normals of z_T, ..., z_1. ``decoder_radius``:
        ``within`` of ``PixelLikelihood.nll``. Raises TypeError or ValueError for a wrong dtype or
        shape.
        """
        check_inputs(self, images, labels, noise_encoder)
        features = self.features(encode(images, self.levels, self.dtype), labels)
        noises = noise_encoder.to(self.dtype).unbind(1)

        def conditional(above: tuple[Tensor, ...]) -> tuple[Gaussian, Gaussian]:
            p = self._prior(above, noises[0], labels)
            return self._posterior(p, above, features, labels), p

        latents, kls = top_down([conditional] * self.depth, noises)
        p_x = self.likelihood(self._seen(latents), labels)
        with full_precision(images):
            return hierarchical_terms(
                p_x.nll(images, self.levels, within=decoder_radius),
                [free_bits(kl, self.free_nats) for kl in kls],
            )

    def generate(self, noise: Tensor, labels: Tensor | None = None) -> PixelLikelihood:
        """p(x | z_1..T) at latents drawn from their priors with ``noise`` (B,T,c,h,w)."""
        latents: tuple[Tensor, ...] = ()
        for row in noise.unbind(1):
            latents += (self._prior(latents, row, labels).sample(row),)
        p_x: PixelLikelihood = self.likelihood(self._seen(latents), labels)
        return p_x

    def _prior(self, above: tuple[Tensor, ...], like: Tensor, labels: Tensor | None) -> Gaussian:
        """p(z_t | above), t = T - len(above), shaped ``like`` a latent."""
        if not above:
            return standard_normal(like)
        p: Gaussian = self.priors[len(above) - 1](self._seen(above), labels)
        return p

    def _posterior(
        self, p: Gaussian, above: tuple[Tensor, ...], features: Tensor, labels: Tensor | None
    ) -> Gaussian:
        """q(z_t | above, x), given p(z_t | above)."""
        inputs = torch.cat([self._seen(above), features], dim=1) if above else features
        added = self.posteriors[len(above)](inputs, labels)
        return Gaussian(p.mean + p.log_std.exp() * added.mean, p.log_std + added.log_std)

    def _seen(self, latents: tuple[Tensor, ...]) -> Tensor:
        """What is seen of the latents drawn so far, (B,seen,h,w)."""
        return torch.cat(latents[len(latents) - self._count(len(latents)) :], dim=1)

    def _count(self, drawn: int) -> int:
        """How many of the latents drawn so far are seen."""
        return min(drawn, 1) if self.markovian else drawn
