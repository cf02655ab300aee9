"""The records that travel between rooms: what each field is, its shape and its unit.

Losses are kept per example, in nats, term by term; bits per dimension is a unit of display and is
applied once, by ``ElboTerms.bits_per_dim``. The records which cross a module's ``forward`` are
named tuples, because ZeRO-3 finds the tensors inside tuples but not those inside dataclasses.
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
        return self.total / (dims * math.log(2.0))


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
        return self.total / (dims * math.log(2.0))


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
