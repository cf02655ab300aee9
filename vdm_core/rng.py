"""Random numbers as a pure function of (seed, purpose, index), on any device and in any order.

The generator is Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC
2011): ten rounds of multiplications turn a 128-bit counter and a 64-bit key into 128 random bits.
The key is the seed. The counter holds what the numbers are for:

    word 0            word 1    word 2             word 3
    block in sample   step      index, low bits    index, 24 high bits, and 8 bits of purpose

There is no state, so a sample's noise depends neither on the batch it sits in nor on the number of
workers, and any draw can be made again. The random integers are the same on every device; the
normals are too, up to the rounding of the device's log, sin and cos.
"""

from __future__ import annotations

import math
from enum import IntEnum

import torch
from torch import Tensor

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_LOW = 0xFFFFFFFF
_ROUNDS = 10

Seed = int | Tensor
"""One seed for all indices, in [0, 2**64), or (B,) int64 from 0 up: a seed for each index."""


class Purpose(IntEnum):
    """What a draw is for: draws with different purposes are independent (at most 256 of them).

    The numbers are part of every recorded run: add new ones, never change one.
    """

    TIMES = 0
    NOISE = 1
    NOISE_0 = 2
    DROP_LABEL = 3
    SAMPLE_INIT = 4
    SAMPLE_STEP = 5
    SAMPLE_DECODE = 6
    DEQUANTISE = 7
    AUGMENT = 8
    DROPOUT = 9
    HUTCHINSON = 10
    LATENT = 11
    BOUND_TIMES = 12
    ENCODER = 13


def philox(counter: tuple[Tensor, ...], key: tuple[Seed, Seed]) -> tuple[Tensor, ...]:
    """Philox4x32-10: four words of counter and two of key to four random words.

    Words are int64 tensors (the key: Python integers too) that hold 32 unsigned bits; they
    broadcast. A product of two words overflows int64, but modulo 2**64, so that its bits are
    right and a mask after the arithmetic shift restores the unsigned high half.
    """
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(_ROUNDS):
        p0, p1 = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1 = (p1 >> 32 & _LOW) ^ c1 ^ k0, p1 & _LOW
        c2, c3 = (p0 >> 32 & _LOW) ^ c3 ^ k1, p0 & _LOW
        k0, k1 = (k0 + _WEYL[0]) & _LOW, (k1 + _WEYL[1]) & _LOW
    return c0, c1, c2, c3


def uniform(
    seed: Seed,
    purpose: Purpose,
    indices: Tensor,
    shape: tuple[int, ...] = (),
    *,
    step: int | Tensor = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Uniforms in [0, 1) for each index: (B, *shape), multiples of 2**-24 (float64: of 2**-32).

    ``indices``: (B,) int64, 0 <= index < 2**56. ``step``: separates repeated draws for one
    index; one for all, or (B,) int64, a step for each.
    Row b is a function of (its seed, purpose, indices[b], step), and a float64 draw rounded down to
    24 bits is the float32 draw. Raises TypeError for another dtype and ValueError for a seed, step
    or index outside its range (tensors are checked only where that needs no wait for a device).
    """
    _check_dtype(dtype)
    return _unit_interval(_words(seed, purpose, indices, math.prod(shape), step), dtype).reshape(
        len(indices), *shape
    )


def normal(
    seed: Seed,
    purpose: Purpose,
    indices: Tensor,
    shape: tuple[int, ...] = (),
    *,
    step: int | Tensor = 0,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Standard normals for each index: (B, *shape), by Box and Muller (1958) from pairs of words.

    Arguments and errors as for ``uniform``. The largest magnitude that can occur is
    sqrt(-2 ln 2**-32) = 6.66. Float32 and float64 draws agree up to float32 rounding.
    """
    _check_dtype(dtype)
    count = math.prod(shape)
    words = _words(seed, purpose, indices, count + count % 2, step).to(dtype)
    radius = ((words[:, 0::2] + 1) * 2.0**-32).log_().mul_(-2).sqrt_()
    angle = words[:, 1::2] * (math.tau * 2.0**-32)
    pairs = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1)
    return pairs.flatten(1)[:, :count].reshape(len(indices), *shape)


def stratified_times(
    seed: int, indices: Tensor, global_batch: int, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Low-discrepancy times in [0, 1): (u_k + i) / G for index = k G + i (VDM, appendix I.1).

    ``indices``: (B,) int64 positions in the training sequence. ``global_batch``: G, the samples of
    one optimiser step over all workers and micro-steps, at most 2**30. One u_k serves the whole
    global batch k, so each of the G intervals [i/G, (i+1)/G) gets one time, however the batch is
    split. The division is of integers, hence exact: no time is ever 1.
    """
    _check_dtype(dtype)
    if not 1 <= global_batch <= 2**30:
        raise ValueError(f"global_batch is {global_batch}: give 1 <= global_batch <= 2**30")
    offset = _words(seed, Purpose.TIMES, indices // global_batch, 1, 0)[:, 0]
    fixed_point = ((indices % global_batch << 32) + offset) // global_batch
    return _unit_interval(fixed_point, dtype)


def _words(seed: Seed, purpose: Purpose, indices: Tensor, count: int, step: int | Tensor) -> Tensor:
    """The first ``count`` random words of each index: (B, count) int64 in [0, 2**32)."""
    seed = _checked("seed", seed, indices, 64)
    step = _checked("step", step, indices, 32)
    if indices.ndim != 1 or indices.dtype != torch.int64:
        raise ValueError(
            f"indices are {indices.dtype} of shape {tuple(indices.shape)}: give (B,) int64"
        )
    if indices.device.type == "cpu" and ((indices < 0) | (indices >> 56 > 0)).any():
        raise ValueError("indices must lie in [0, 2**56): they are positions, not keys")
    index = indices[:, None]
    block = torch.arange(-(-count // 4), dtype=torch.int64, device=indices.device)
    step_word = step if isinstance(step, Tensor) else torch.full_like(block, step)
    counter = (block, step_word, index & _LOW, index >> 32 | purpose << 24)
    words = philox(counter, (seed & _LOW, seed >> 32))
    return torch.stack(words, dim=-1).flatten(1)[:, :count]


def _checked(name: str, value: Seed, indices: Tensor, bits: int) -> Seed:
    """A number for all indices as it is, and one for each as a column (B, 1)."""
    if isinstance(value, int):
        if not 0 <= value < 2**bits:
            raise ValueError(f"{name} {value}: give 0 <= {name} < 2**{bits}")
        return value
    if value.shape != indices.shape or value.dtype != torch.int64:
        raise ValueError(
            f"{name} is {value.dtype} of shape {tuple(value.shape)} and indices of shape "
            f"{tuple(indices.shape)}: give one int, or an int64 for each index"
        )
    most = 2 ** min(bits, 63) - 1  # of an int64
    if value.device.type == "cpu" and ((value < 0) | (value > most)).any():
        raise ValueError(f"{name} holds numbers outside [0, {most}]")
    return value[:, None]


def _unit_interval(words: Tensor, dtype: torch.dtype) -> Tensor:
    """Words to [0, 1): the high 24 bits in float32, all 32 in float64, both without rounding."""
    if dtype == torch.float64:
        return words.to(dtype) * 2.0**-32
    return (words >> 8).to(dtype) * 2.0**-24


def _check_dtype(dtype: torch.dtype) -> None:
    if dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dtype is {dtype}: give torch.float32 or torch.float64, then cast")
