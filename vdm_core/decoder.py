"""The last step between integers and the latent z_0: encode, log p(x | z_0), decode.

The integer k of L levels is the number x_k = 2 (k + 1/2) / L - 1. Each dimension is decoded on its
own: p(k | z_0) is proportional to N(z_0; alpha_0 x_k, sigma_0^2) (Kingma et al. 2021, section 3.3).

A table of all L levels would be L times as large as the image, but only levels near z_0 / alpha_0
carry mass. In units of the distance between levels, let n be the nearest level, delta its offset
from z_0 / alpha_0, and a = 2 exp(-gamma_0) / L^2. Then, exactly,

    log p(k | z_0) = -a (m^2 - 2 m delta) - log sum_j exp(-a (j^2 - 2 j delta)),    m = k - n,

with j over the levels counted from n. The sum is streamed outwards from j = 0 to a radius beyond
which the levels lie below the resolution of the floating-point type: 1 level at gamma_0 = -13.3,
all of them as gamma_0 nears 0, where tables of a bounded size are quicker. The gradient needs only
the mean of j and j^2 under the terms.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vdm_core.diffusion import broadcast

_FEW = 0.3
"""Up to this share of the levels to each side, streaming them is quicker than a table of all."""

_TABLE_ROWS, _TABLE_ROWS_CPU = 65536, 512
"""Dimensions in one table: few launches on an accelerator, tables that fit the cache on a CPU."""


def encode(images: Tensor, levels: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Integers in [0, ``levels``) to numbers in +-(1 - 1/levels), any shape."""
    return (2 * images.to(dtype) + (1 - levels)) / levels


def radius(gamma_0: float, levels: int, dtype: torch.dtype = torch.float32) -> int:
    """How many levels to each side of the nearest one carry mass that ``dtype`` can show.

    The level at distance j from the nearest one has at most exp(-a j (j - 1)) of its mass, so the
    levels beyond the first r with a r (r + 1) >= -log(eps) + 4 may be left out. The radius grows
    with gamma_0: that of an upper bound of gamma_0 serves all values below. Raises ValueError where
    gamma_0 is not a number.
    """
    if math.isnan(gamma_0):
        raise ValueError("gamma_0 is NaN: the schedule's parameters are not finite any more")
    needed = _resolution(dtype) / _sharpness(torch.tensor(min(gamma_0, 0.0)), levels).item()
    return min(levels - 1, max(1, math.ceil((math.sqrt(1 + 4 * needed) - 1) / 2)))


def log_prob(
    images: Tensor, z_0: Tensor, gamma_0: Tensor, levels: int, *, within: int | None = None
) -> Tensor:
    """log p(x | z_0) of each example in nats, (B,); differentiable in ``z_0`` and ``gamma_0``.

    ``images`` (B,C,H,W) uint8, ``z_0`` (B,C,H,W), ``gamma_0`` (1,) or (B,). The radius is taken
    from the value of gamma_0, which on an accelerator waits for the device. A training loop avoids
    the wait by passing ``within = radius(g, levels)`` for an upper bound g of gamma_0, such as the
    value last logged plus a margin; should gamma_0 outgrow it, the result is NaN, never a number
    that is quietly wrong.
    """
    reach = _radius(gamma_0, levels, z_0.dtype) if within is None else within
    nearest, offset = _locate(z_0, gamma_0, levels)
    sharpness = broadcast(_sharpness(gamma_0, levels), z_0)
    log_p: Tensor = _LogMass.apply(  # type: ignore[no-untyped-call]
        images, nearest, offset, sharpness, levels, reach
    )
    log_p = log_p.flatten(1).sum(1)
    if within is None or within >= levels - 1:
        return log_p
    enough = sharpness.detach().amin() * (reach * (reach + 1)) > 0.999 * _resolution(z_0.dtype)
    return torch.where(enough, log_p, math.nan)


@torch.no_grad()
def decode(z_0: Tensor, gamma_0: Tensor, levels: int, *, uniforms: Tensor | None = None) -> Tensor:
    """Images (B,C,H,W) uint8 from ``z_0``: the most likely level of each dimension, or, given
    ``uniforms`` in [0, 1) of the shape of ``z_0``, a draw from p(x | z_0) by its inverse CDF.
    """
    nearest, offset = _locate(z_0, gamma_0, levels)
    if uniforms is None:
        return nearest.to(torch.uint8)
    sharpness = broadcast(_sharpness(gamma_0, levels), z_0)
    reach = _radius(gamma_0, levels, z_0.dtype)
    steps = range(-reach, reach + 1)
    total = torch.zeros_like(z_0)
    for j in steps:
        total += _mass(j, nearest, offset, sharpness, levels)
    target, cumulative, level = uniforms * total, torch.zeros_like(z_0), nearest - reach
    for j in steps:
        cumulative += _mass(j, nearest, offset, sharpness, levels)
        level += cumulative <= target
    return level.clamp_(0, levels - 1).to(torch.uint8)


class _LogMass(torch.autograd.Function):
    """log p(k | z_0) of every dimension, with the gradients in ``offset`` and ``sharpness``."""

    @staticmethod
    def forward(
        ctx: Any,
        images: Tensor,
        nearest: Tensor,
        offset: Tensor,
        sharpness: Tensor,
        levels: int,
        reach: int,
    ) -> Tensor:
        """Take the masses' sum and moments; save the gradient, not the masses."""
        if reach < _FEW * levels:
            others, mean, square = _streamed(nearest, offset, sharpness, levels, reach)
        else:
            others, mean, square = _tabled(nearest, offset, sharpness, levels)
        mean /= others + 1
        square /= others + 1
        m = images - nearest
        log_p = (2 * offset).sub_(m).mul_(m)
        by_sharpness = square.add_(log_p).addcmul_(offset, mean, value=-2)
        by_offset = m.sub_(mean).mul_(2 * sharpness)
        ctx.save_for_backward(by_offset, by_sharpness)
        ctx.sharpness_shape = sharpness.shape
        return log_p.mul_(sharpness).sub_(others.log1p_())

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[None, None, Tensor, Tensor, None, None]:
        """Scale the saved gradients; that of ``sharpness`` is summed to its shape."""
        by_offset, by_sharpness = ctx.saved_tensors
        shape = ctx.sharpness_shape
        return None, None, grad * by_offset, (grad * by_sharpness).sum_to_size(shape), None, None


def _streamed(
    nearest: Tensor, offset: Tensor, sharpness: Tensor, levels: int, reach: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The masses of the levels j = +-1, ..., +-``reach`` summed as they are, by j and by j^2."""
    others, mean, square = (torch.zeros_like(offset) for _ in range(3))
    for distance in range(1, reach + 1):
        for j in (distance, -distance):
            mass = _mass(j, nearest, offset, sharpness, levels)
            others += mass
            mean.add_(mass, alpha=j)
            square.add_(mass, alpha=j * j)
            del mass
    return others, mean, square


def _tabled(
    nearest: Tensor, offset: Tensor, sharpness: Tensor, levels: int
) -> tuple[Tensor, Tensor, Tensor]:
    """The same sums over all levels but j = 0, from tables of some dimensions at a time."""
    rows = _TABLE_ROWS_CPU if offset.device.type == "cpu" else _TABLE_ROWS
    flat = [value.expand_as(offset).reshape(-1, 1) for value in (nearest, offset, sharpness)]
    level = torch.arange(levels, dtype=offset.dtype, device=offset.device)
    sums = offset.new_empty(3, offset.numel())
    for start in range(0, offset.numel(), rows):
        n, delta, a = (value[start : start + rows] for value in flat)
        j = level - n
        mass = (2 * delta - j).mul_(j).mul_(a).exp_().masked_fill_(j == 0, 0.0)
        for moment in sums[:, start : start + rows]:
            moment.copy_(mass.sum(1))
            mass *= j
    others, mean, square = sums.view(3, *offset.shape)
    return others, mean, square


def _mass(j: int, nearest: Tensor, offset: Tensor, sharpness: Tensor, levels: int) -> Tensor:
    """exp(-a (j^2 - 2 j delta)), and 0 where ``nearest`` + j is not a level."""
    exponent = (2 * offset).sub_(j).mul_(sharpness * j)
    outside = nearest > levels - 1 - j if j > 0 else nearest < -j
    return exponent.masked_fill_(outside, -math.inf).exp_()


def _locate(z_0: Tensor, gamma_0: Tensor, levels: int) -> tuple[Tensor, Tensor]:
    """The level nearest to z_0 / alpha_0, as a float, and the offset from it in levels.

    1 / alpha_0 is barely above 1. Subtracting the level from z_0 first, which is exact, and adding
    (1 / alpha_0 - 1) z_0 after keeps the digits that z_0 / alpha_0 would round away.
    """
    excess = broadcast(torch.expm1(F.softplus(gamma_0) / 2), z_0)
    with torch.no_grad():
        nearest = torch.addcmul(z_0, z_0, excess).mul_(levels / 2).add_((levels - 1) / 2)
        nearest.round_().clamp_(0, levels - 1)
    offset = ((z_0 - encode(nearest, levels, z_0.dtype)) + z_0 * excess) * (levels / 2)
    return nearest, offset


def _sharpness(gamma_0: Tensor, levels: int) -> Tensor:
    """a = 2 exp(-gamma_0) / L^2: 1 / (2 variance) of z_0 / alpha_0 in squared levels."""
    return 2 / levels**2 * torch.exp(-gamma_0)


def _resolution(dtype: torch.dtype) -> float:
    """The exponent at which a level counts as below the resolution of ``dtype``."""
    return 4 - math.log(torch.finfo(dtype).eps)


def _radius(gamma_0: Tensor, levels: int, dtype: torch.dtype) -> int:
    return radius(gamma_0.detach().max().item(), levels, dtype)
