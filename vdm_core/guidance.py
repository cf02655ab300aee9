"""Guidance: ways to turn one denoiser into another that follows its label more, or less.

A guidance is any function from denoiser to denoiser, and samplers know denoisers only. Guidance by
a classifier or by a weaker network is therefore one more callable, and no change elsewhere.
The guided epsilon_hat is not the score of a known density: it samples a law of its own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from vdm_core.denoiser import Denoiser
from vdm_core.labels import NO_LABEL

Guidance = Callable[[Denoiser], Denoiser]
"""denoiser -> guided denoiser."""


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance (Ho and Salimans 2022, with the weight w = 1 + their w).

    epsilon = w epsilon_hat(z, y) + (1 - w) epsilon_hat(z): w = 1 is the plain conditional model,
    w = 0 the unconditional one, w > 1 moves away from what is common to all classes. Both halves
    run as one batch of 2 B, the second with label -1; at w = 0 and w = 1 one half is enough.

    Args:
        scale: w, any finite number.
        gamma_interval: (lowest, highest) gamma at which to guide (Kynkäänniemi et al. 2024);
            elsewhere the model is plainly conditional. None guides everywhere.

    Raises:
        ValueError: scale is not finite, the interval is empty, or the guided denoiser is called
            without labels.
    """

    scale: float
    gamma_interval: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise ValueError(f"ClassifierFree: scale is {self.scale}; give a finite number")
        if self.gamma_interval and not self.gamma_interval[0] < self.gamma_interval[1]:
            raise ValueError(
                f"ClassifierFree: gamma_interval {self.gamma_interval} is empty; give "
                "(lowest, highest)"
            )

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """Return the guided denoiser."""

        def guided(z: Tensor, gamma: Tensor, labels: Tensor | None) -> Tensor:
            if labels is None:
                raise ValueError(
                    "classifier-free guidance needs labels: pass one class per sample, or sample "
                    "without guidance"
                )
            if self.scale == 1.0:
                return denoiser(z, gamma, labels)
            if self.scale == 0.0:
                null = labels.masked_fill(self._guides(gamma), NO_LABEL)
                return denoiser(z, gamma, null)
            null = torch.full_like(labels, NO_LABEL)
            both = denoiser(torch.cat([z, z]), torch.cat([gamma, gamma]), torch.cat([labels, null]))
            conditional, unconditional = both.chunk(2)
            weight = torch.where(self._guides(gamma), self.scale, 1.0).to(z.dtype)
            return torch.lerp(unconditional, conditional, weight[:, None, None, None])

        return guided

    def _guides(self, gamma: Tensor) -> Tensor:
        """(B,) -> (B,) bool: is this gamma inside the interval?"""
        if self.gamma_interval is None:
            return torch.ones_like(gamma, dtype=torch.bool)
        lowest, highest = self.gamma_interval
        return (gamma >= lowest) & (gamma <= highest)
