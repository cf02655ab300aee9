"""Gaussians with independent dimensions: drawing from them, and their divergence in closed form."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Gaussian(NamedTuple):
    """N(mean, exp(log_std)^2) in every dimension, both (B,...)."""

    mean: Tensor
    log_std: Tensor

    def sample(self, noise: Tensor) -> Tensor:
        """mean + std ``noise`` for ``noise`` (B,...) from N(0, I) (Kingma and Welling 2014)."""
        return self.mean + self.log_std.exp() * noise

    def kl(self, other: Gaussian) -> Tensor:
        """KL(self || other), (B,) nats.

        With d = log_std - other.log_std and m the distance of the means in units of the other's
        standard deviation, 1/2 sum(m^2 + exp(2 d) - 1 - 2 d).
        """
        d = self.log_std - other.log_std
        m = (self.mean - other.mean) * torch.exp(-other.log_std)
        return 0.5 * (m.square() + (torch.expm1(2 * d) - 2 * d)).flatten(1).sum(1)

    def entropy(self) -> Tensor:
        """The differential entropy, (B,) nats: sum of log_std + 1/2 log(2 pi e)."""
        per_dim = self.log_std + 0.5 * (1 + math.log(math.tau))
        return per_dim.flatten(1).sum(1)

    def log_prob(self, value: Tensor) -> Tensor:
        """The log density of ``value`` (B,...), (B,) nats."""
        error = (value - self.mean) * torch.exp(-self.log_std)
        per_dim = -0.5 * (error.square() + math.log(math.tau)) - self.log_std
        return per_dim.flatten(1).sum(1)


def standard_normal(like: Tensor) -> Gaussian:
    """N(0, I), shaped like ``like``."""
    return Gaussian(torch.zeros_like(like), torch.zeros_like(like))
