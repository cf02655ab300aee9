"""The random numbers of a sample: of a walk, several steps at a time, and of the pixels."""

from typing import Literal

import torch
from torch import Tensor

from vdm_core.rng import Purpose, Seed, normal, uniform

Decode = Literal["argmax", "sample"]
"""Pixels from their likelihood: the likeliest level of each, or a draw."""

_NUMBERS = 2**16  # made at a time; the generator's work per number is least from about here on


class StepNoise:
    """number of the draw -> standard normal noise (B,C,H,W), a `Noise` for samplers.

    The numbers are those of `normal(seed, SAMPLE_STEP, sample_ids, shape, step=number)`. A small
    batch is bound by the number of operations, not by their size, so one call makes many draws.
    """

    def __init__(
        self, seed: Seed, sample_ids: Tensor, shape: tuple[int, int, int], dtype: torch.dtype
    ) -> None:
        self.seed, self.sample_ids, self.shape, self.dtype = seed, sample_ids, shape, dtype
        size = len(sample_ids) * shape[0] * shape[1] * shape[2]
        self.ahead = max(1, _NUMBERS // size)
        self._block, self._made = -1, sample_ids  # nothing is made yet

    def __call__(self, draw: int) -> Tensor:
        """The noise of a draw, counted from 0."""
        block, place = divmod(draw, self.ahead)
        if block != self._block:
            self._block, self._made = block, self._make(block * self.ahead)
        return self._made[place]

    def _make(self, first: int) -> Tensor:
        """Draws first, first + 1, …: (ahead, B, C, H, W)."""
        count = len(self.sample_ids)
        steps = torch.arange(first, first + self.ahead, device=self.sample_ids.device)
        seed = self.seed.repeat(self.ahead) if isinstance(self.seed, Tensor) else self.seed
        numbers = normal(
            seed,
            Purpose.SAMPLE_STEP,
            self.sample_ids.repeat(self.ahead),
            self.shape,
            step=steps.repeat_interleave(count),
            dtype=self.dtype,
        )
        return numbers.view(self.ahead, count, *self.shape)


def decoding_uniforms(
    decode: Decode,
    seed: Seed,
    sample_ids: Tensor,
    shape: tuple[int, int, int],
    dtype: torch.dtype,
) -> Tensor | None:
    """What ``decode`` draws levels by: (B,C,H,W) in [0, 1), or None for the likeliest levels.

    Raises ValueError for another ``decode``.
    """
    if decode not in ("argmax", "sample"):
        raise ValueError(f"decode is {decode!r}; give 'argmax' or 'sample'")
    if decode == "argmax":
        return None
    return uniform(seed, Purpose.SAMPLE_DECODE, sample_ids, shape, dtype=dtype)
