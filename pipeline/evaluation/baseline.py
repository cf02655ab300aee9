"""The best i.i.d.-pixel model: what a bound must beat before it says anything about images."""

import math

import torch

from pipeline.config.data import TransformConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.stream import iterate_once
from pipeline.data.transform import NO_TRANSFORM


def pixel_counts(
    dataset: ShardedDataset, transform: TransformConfig = NO_TRANSFORM
) -> torch.Tensor:
    """(levels,) int64: how often each value occurs, over all pixels, channels and images."""
    counts = torch.zeros(dataset.info.levels, dtype=torch.int64)
    for batch in iterate_once(dataset, batch_size=512, transform=transform):
        counts += torch.bincount(batch.images.flatten().long(), minlength=dataset.info.levels)
    return counts


def iid_pixel_bits(
    fitted_on: ShardedDataset, data: ShardedDataset, transform: TransformConfig = NO_TRANSFORM
) -> float:
    """Cross-entropy in bits/dim of `data` under the pixel histogram of `fitted_on`.

    One count is added to every level (Laplace), so that an unseen value costs finitely many bits.
    """
    counts = pixel_counts(fitted_on, transform).double() + 1
    bits = -torch.log(counts / counts.sum()) / math.log(2)
    seen = pixel_counts(data, transform).double()
    return ((seen / seen.sum()) * bits).sum().item()
