"""The records that travel between rooms: what each field is, its shape and its unit.

Losses are kept per example, in nats, term by term; bits per dimension is a unit of display and is
applied once, by ``bits_per_dim`` of a model's terms. The records which cross a module's ``forward``
are named tuples, because ZeRO-3 finds the tensors inside tuples but not those inside dataclasses.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor


class SchedulePoint(NamedTuple):
    """A noise schedule at the times t.

    ``gamma``: negative log signal-to-noise ratio, shaped like t, with (C,H,W) added where each
    pixel and channel has its own. ``slope``: d gamma / d t, the same shape.
    """

    gamma: Tensor
    slope: Tensor


class ElboTerms(NamedTuple):
    """The negative ELBO of each example as its three terms, in nats, each (B,).

    Kingma et al. 2021, equation 11: ``total`` is an upper bound on -log p(x).
    """

    reconstruction: Tensor
    prior: Tensor
    diffusion: Tensor

    @property
    def total(self) -> Tensor:
        """The negative ELBO: the sum of the three terms, (B,), nats."""
        return self.reconstruction + self.prior + self.diffusion

    def bits_per_dim(self, dims: int) -> Tensor:
        """The negative ELBO in bits per dimension, (B,); ``dims`` is C * H * W."""
        return _bits_per_dim(self.total, dims)

    def named(self) -> dict[str, Tensor]:
        """Each term, (B,) nats, by its name."""
        return self._asdict()

    @property
    def timed(self) -> Tensor:
        """What belongs to the example's one time t: its diffusion term, (B,)."""
        return self.diffusion


class AdaptiveElboTerms(NamedTuple):
    """The terms of ``ElboTerms`` and a fourth, for a schedule that adapts to the image.

    ``auxiliary``: KL(q(c | x) || p(c)) of the schedule's latent c, (B,) nats. A record of its own,
    so that a term is in the record where it is in the model, and nowhere else.
    """

    reconstruction: Tensor
    prior: Tensor
    diffusion: Tensor
    auxiliary: Tensor

    @property
    def total(self) -> Tensor:
        """The negative ELBO: the sum of the four terms, (B,), nats."""
        return self.reconstruction + self.prior + self.diffusion + self.auxiliary

    def bits_per_dim(self, dims: int) -> Tensor:
        """The negative ELBO in bits per dimension, (B,); ``dims`` is C * H * W."""
        return _bits_per_dim(self.total, dims)

    def named(self) -> dict[str, Tensor]:
        """Each term, (B,) nats, by its name."""
        return self._asdict()

    @property
    def timed(self) -> Tensor:
        """What belongs to the example's one time t: its diffusion term, (B,)."""
        return self.diffusion


class HierarchicalElboTerms(NamedTuple):
    """The negative ELBO of a model with latents z_1 (nearest to the image), ..., z_T, in nats.

    ``reconstruction``: -log p(x | z), (B,). ``prior``: KL(q(z_T | x) || p(z_T)), (B,).
    ``levels``: (B,T-1), column t-1 the KL of z_t given what lies above it, q(z_t | z_{>t}, x)
    against p(z_t | z_{>t}), at the draw of z_{>t}. With T = 1, a VAE, it has no columns.
    """

    reconstruction: Tensor
    prior: Tensor
    levels: Tensor

    @property
    def total(self) -> Tensor:
        """The negative ELBO: the sum of all terms, (B,), nats."""
        return self.reconstruction + self.prior + self.levels.sum(1)

    def bits_per_dim(self, dims: int) -> Tensor:
        """The negative ELBO in bits per dimension, (B,); ``dims`` is C * H * W."""
        return _bits_per_dim(self.total, dims)

    def named(self) -> dict[str, Tensor]:
        """Each term, (B,) nats, by its name: reconstruction, prior, kl_1 to kl_{T-1}."""
        levels = {f"kl_{t}": kl for t, kl in enumerate(self.levels.unbind(1), start=1)}
        return {"reconstruction": self.reconstruction, "prior": self.prior, **levels}

    @property
    def timed(self) -> None:
        """There is no time here."""


class LatentElboTerms(NamedTuple):
    """The negative ELBO of a diffusion model of a VAE's latents y, (B,) each, in nats.

    ``reconstruction``: -log p(x | y). ``encoder``: E log q(y | x), minus the encoder's entropy.
    ``latent``: E -log p(y | z_0). ``prior`` and ``diffusion``: as in ``ElboTerms``, of y. The terms
    ``encoder`` and ``latent`` are of densities of y: only their sum has a meaning in itself.
    """

    reconstruction: Tensor
    encoder: Tensor
    latent: Tensor
    prior: Tensor
    diffusion: Tensor

    @property
    def total(self) -> Tensor:
        """The negative ELBO: the sum of the five terms, (B,), nats."""
        return self.reconstruction + self.encoder + self.latent + self.prior + self.diffusion

    def bits_per_dim(self, dims: int) -> Tensor:
        """The negative ELBO in bits per dimension, (B,); ``dims`` is C * H * W."""
        return _bits_per_dim(self.total, dims)

    def named(self) -> dict[str, Tensor]:
        """Each term, (B,) nats, by its name."""
        return self._asdict()

    @property
    def timed(self) -> Tensor:
        """What belongs to the example's one time t: its diffusion term, (B,)."""
        return self.diffusion


class ClassifierTerms(NamedTuple):
    """How a classifier of noisy latents does on each example, (B,) each.

    ``cross_entropy``: -log p(y | z_t, gamma_t), nats. ``correct``: 1 where y is the likeliest
    class, else 0. A label is data of one dimension, so ``bits_per_dim(1)`` are its bits.
    """

    cross_entropy: Tensor
    correct: Tensor

    @property
    def total(self) -> Tensor:
        """The cross-entropy, (B,), nats."""
        return self.cross_entropy

    def bits_per_dim(self, dims: int) -> Tensor:
        """The cross-entropy in bits, divided by ``dims``, (B,)."""
        return _bits_per_dim(self.total, dims)

    def named(self) -> dict[str, Tensor]:
        """The one term, (B,) nats, by its name."""
        return {"cross_entropy": self.cross_entropy}

    @property
    def timed(self) -> Tensor:
        """What belongs to the example's one time t: whether it was classified rightly, (B,)."""
        return self.correct


@dataclass(frozen=True)
class Noised:
    """A draw of q(z_t | x): ``z`` (B,C,H,W), its ``gamma`` and ``noise`` (B,C,H,W).

    ``gamma`` is (B,), or (B,C,H,W) where each pixel and channel has its own.
    """

    z: Tensor
    gamma: Tensor
    noise: Tensor


@dataclass(frozen=True)
class Batch:
    """Consecutive samples of the training sequence, as the stream hands them out.

    ``images``: (B,C,H,W) uint8. ``labels``: (B,) int64, -1 for "no label", or None for no labels at
    all. ``indices``: (B,) int64, position in the whole training sequence, never repeated in a run.
    ``valid``: (B,) bool, False where a bad record left a hole (zeros whose loss must be ignored).
    ``keys``: one "shard-file-name/key" for each sample, for error reports.
    """

    images: Tensor
    labels: Tensor | None
    indices: Tensor
    valid: Tensor
    keys: tuple[str, ...]


def _bits_per_dim(nats: Tensor, dims: int) -> Tensor:
    return nats / (dims * math.log(2.0))
