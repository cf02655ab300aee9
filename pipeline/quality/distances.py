"""How far apart two sets of images are, by their features: Fréchet, kernel, precision and recall.

The functions take features of any network, (N,D), or their moments; whose features they were is for
the caller to say. All of it is float64 and a function of its arguments.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

_CHUNK = 2048  # rows of a distance matrix that are in memory at once


@dataclass(frozen=True)
class Moments:
    """Count, mean (D,) and scatter (D,D), the sum of products of what is left of the mean."""

    count: int
    mean: Tensor
    scatter: Tensor

    @staticmethod
    def of(features: Tensor) -> Moments:
        """Of the rows of (N,D)."""
        values = features.double()
        mean = values.mean(0)
        rest = values - mean
        return Moments(len(values), mean, rest.T @ rest)

    def __add__(self, other: Moments) -> Moments:
        """Of both together (Chan, Golub and LeVeque 1983), without loss by cancellation."""
        count = self.count + other.count
        step = other.mean - self.mean
        mean = self.mean + step * (other.count / count)
        between = torch.outer(step, step) * (self.count * other.count / count)
        return Moments(count, mean, self.scatter + other.scatter + between)

    @property
    def covariance(self) -> Tensor:
        """(D,D), with N - 1."""
        return self.scatter / (self.count - 1)


def moments(parts: Iterable[Tensor]) -> Moments:
    """Of all rows of all parts, one part in memory at a time.

    Raises:
        ValueError: fewer than two rows.
    """
    total: Moments | None = None
    for part in parts:
        total = Moments.of(part) if total is None else total + Moments.of(part)
    if total is None or total.count < 2:
        raise ValueError("a covariance needs two rows of features or more")
    return total


def frechet_distance(one: Moments, other: Moments) -> float:
    """|m_1 - m_2|^2 + tr(S_1 + S_2 - 2 (S_1 S_2)^(1/2)) (Heusel et al. 2017, equation 6).

    The trace of the root is that of the symmetric (S_1^(1/2) S_2 S_1^(1/2))^(1/2), so covariances
    without full rank are no trouble.
    """
    root = _symmetric_root(one.covariance)
    between = torch.linalg.eigvalsh(root @ other.covariance @ root).clamp(min=0).sqrt().sum()
    traces = one.covariance.trace() + other.covariance.trace()
    return ((one.mean - other.mean).square().sum() + traces - 2 * between).item()


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt()) @ vectors.T


class KernelDistance(NamedTuple):
    """Mean over subsets of the unbiased squared MMD, the deviation of one, and rows in a subset."""

    mean: float
    deviation: float
    subset: int


def kernel_distance(
    one: Tensor, other: Tensor, *, subset: int, subsets: int, seed: int
) -> KernelDistance:
    """KID's squared MMD with the kernel (x·y / D + 1)^3 (Bińkowski et al. 2018, section 4).

    ``one`` (N,D), ``other`` (M,D). Subsets have ``subset`` rows of each, at most min(N, M). Raises
    ValueError for fewer than two rows.
    """
    size = min(subset, len(one), len(other))
    if size < 2:
        raise ValueError("an unbiased kernel distance needs two rows of features or more")
    rng = np.random.Generator(np.random.Philox(seed))
    found = [
        _squared_mmd(_some(one, size, rng), _some(other, size, rng)).item() for _ in range(subsets)
    ]
    return KernelDistance(float(np.mean(found)), float(np.std(found)), size)


def _some(features: Tensor, size: int, rng: np.random.Generator) -> Tensor:
    return features[torch.from_numpy(rng.choice(len(features), size, replace=False))].double()


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Unbiased, of equally many rows."""
    count = len(x)
    within = sum(k.sum() - k.trace() for k in (_kernel(x, x), _kernel(y, y)))
    return within / (count * (count - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    return (x @ y.T / x.shape[1] + 1) ** 3


class PrecisionRecall(NamedTuple):
    """Shares: samples within the data's manifold, and data within the samples' manifold."""

    precision: float
    recall: float


def precision_recall(samples: Tensor, data: Tensor, *, neighbour: int) -> PrecisionRecall:
    """By balls that reach each point's ``neighbour``-th neighbour (Kynkäänniemi et al. 2019).

    ``samples`` (N,D), ``data`` (M,D). Raises ValueError where a set has no such neighbour.
    """
    if min(len(samples), len(data)) <= neighbour:
        raise ValueError(f"neighbour {neighbour} needs more than that many rows in each set")
    samples, data = samples.double(), data.double()
    return PrecisionRecall(
        _covered(samples, data, _radii(data, neighbour)),
        _covered(data, samples, _radii(samples, neighbour)),
    )


def _radii(points: Tensor, neighbour: int) -> Tensor:
    """Distance of each point to its ``neighbour``-th other point."""
    found = [_distances(r, points).kthvalue(neighbour + 1).values for r in _chunks(points)]
    return torch.cat(found)


def _covered(points: Tensor, centres: Tensor, radii: Tensor) -> float:
    inside = [(_distances(r, centres) <= radii).any(1) for r in _chunks(points)]
    return torch.cat(inside).double().mean().item()


def _chunks(points: Tensor) -> list[Tensor]:
    return [points[start : start + _CHUNK] for start in range(0, len(points), _CHUNK)]


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """Without the shortcut by products, so that a point is at distance 0 of itself."""
    return torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
