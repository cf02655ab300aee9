"""From integers to densities: log P(k) >= E_q[log p(y) - log q(y)] for y in the bin of k.

The bin of level k of L is x_k +- 1/L. Uniform q is the usual choice (Theis et al. 2016). The
truncated normal (Zheng et al. 2023, i-DODE) is what diffusion itself does at gamma_0: y = z_0 /
alpha_0 = x + exp(gamma_0 / 2) epsilon, kept inside the bin; the network has been trained on such y.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor

from vdm_core.decoder import encode
from vdm_core.rng import Purpose, uniform

Dequantisation = Literal["uniform", "truncated_normal"]


class Dequantised(NamedTuple):
    """Real-valued images ``y`` (B,C,H,W) within the bins, and ``log_q`` (B,) of them in nats."""

    y: Tensor
    log_q: Tensor


def dequantise(
    images: Tensor,
    indices: Tensor,
    levels: int,
    gamma_0: float,
    *,
    kind: Dequantisation,
    draw: int = 0,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> Dequantised:
    """Draw y from q(y | x) for ``images`` (B,C,H,W) uint8 and ``indices`` (B,) int64.

    ``gamma_0`` sets the width of the truncated normal. Raises ValueError for an unknown ``kind``.
    """
    if kind not in get_args(Dequantisation):
        raise ValueError(
            f"unknown dequantisation {kind!r}: give one of {', '.join(get_args(Dequantisation))}"
        )
    shape, step = tuple(images.shape[1:]), 2.0**-32
    u = uniform(seed, Purpose.DEQUANTISE, indices, shape, step=draw, dtype=torch.float64)
    centred = 2 * u + step - 1  # strictly within +-1
    if kind == "uniform":
        offset, log_density = centred / levels, torch.full_like(u, math.log(levels / 2))
    else:
        offset, log_density = _truncated_normal(centred, math.exp(gamma_0 / 2), 1 / levels)
    y = encode(images, levels, dtype) + offset.to(dtype)
    return Dequantised(y, log_density.flatten(1).sum(1).to(dtype))


def _truncated_normal(centred: Tensor, scale: float, reach: float) -> tuple[Tensor, Tensor]:
    """Offsets of N(0, scale^2) within +-reach from uniforms in +-1, and their log densities."""
    mass = math.erf(reach / scale / math.sqrt(2))
    epsilon = math.sqrt(2) * torch.erfinv(mass * centred)
    log_density = -0.5 * epsilon.square() - math.log(mass * scale * math.sqrt(math.tau))
    return scale * epsilon, log_density
