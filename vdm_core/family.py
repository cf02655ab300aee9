"""What every model here offers to those who train and evaluate it, whatever is inside.

A VDM, a VAE, a hierarchy of latents and a VDM of latents all map images to the terms of a negative
ELBO. Each says which random numbers its ``forward`` takes, by name, purpose and shape, and
``keyed_draws`` makes them: so one training step serves all, and the draws of a sample depend on the
seed and its index alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

import torch
from torch import Tensor, nn

from vdm_core.rng import Purpose, normal, stratified_times
from vdm_core.schedule import Schedule


class Terms(Protocol):
    """The negative ELBO of each example, term by term, in nats."""

    @property
    def total(self) -> Tensor:
        """The sum of all terms, (B,), nats."""

    def bits_per_dim(self, dims: int) -> Tensor:
        """The total in bits per dimension, (B,); ``dims`` is C * H * W."""

    def named(self) -> dict[str, Tensor]:
        """Each term, (B,) nats, by its name."""

    @property
    def timed(self) -> Tensor | None:
        """What of an example belongs to its one time t, (B,); None for a model without times."""


class Draw(NamedTuple):
    """A random argument of ``forward``: (B, *shape) standard normals keyed by ``purpose``.

    ``Purpose.TIMES``, of shape (), stands for times in [0, 1), stratified over the global batch.
    """

    purpose: Purpose
    shape: tuple[int, ...] = ()


class Family(Protocol):
    """A model that is trained on its ELBO: the mean of ``bits_per_dim`` is what descends.

    Where a training objective differs from the ELBO (free bits, the variance of a schedule), the
    difference is in the gradient of the terms and not in their values.
    """

    @property
    def levels(self) -> int:
        """How many values a channel of the images takes."""

    @property
    def term_names(self) -> tuple[str, ...]:
        """The keys of ``named`` of its terms, in order."""

    @property
    def schedule(self) -> Schedule | None:
        """The noise schedule that its times are of; None for a model without times."""

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The parts that autocast may compute in bfloat16; what is around them stays float32."""

    @property
    def islands(self) -> tuple[nn.Module, ...]:
        """The parts whose parameters stay float32 wherever they go: schedule and last layers."""

    def draws(self, shape: tuple[int, int, int]) -> dict[str, Draw]:
        """The random arguments of ``forward`` for images of this ``shape``, (C,H,W), by name."""

    def __call__(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        decoder_radius: int | None,
        **draws: Tensor,
    ) -> Terms:
        """The terms of ``images`` (B,C,H,W) uint8 with ``labels`` (B,) int64 or None."""


def keyed_draws(
    needs: Mapping[str, Draw],
    seed: int,
    indices: Tensor,
    global_batch: int,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """The random arguments of a training step for the samples at ``indices`` (B,) int64.

    ``needs``: as ``Family.draws`` says. ``global_batch``: the samples of one optimizer step over
    all workers and micro-steps. Errors as for ``rng.normal`` and ``rng.stratified_times``.
    """
    return {
        name: stratified_times(seed, indices, global_batch, dtype)
        if draw.purpose is Purpose.TIMES
        else normal(seed, draw.purpose, indices, draw.shape, dtype=dtype)
        for name, draw in needs.items()
    }
