"""Small real sharded sets for the tests of the data rooms."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.decode import encode_png
from pipeline.data.manifest import DatasetInfo
from pipeline.data.writer import ShardSample, finish_dataset, write_shard
from pipeline.storage import open_storage

MakeDataset = Callable[..., ShardedDataset]


def number_image(number: int, shape: tuple[int, int, int] = (1, 4, 4)) -> np.ndarray:
    """An image that holds `number` in its first three pixels, so that it can be told again."""
    image = np.zeros(shape, np.uint8)
    image.reshape(-1)[:3] = [number % 256, number // 256 % 256, number // 65536]
    return image


@pytest.fixture
def make_dataset(tmp_path: Path) -> MakeDataset:
    """make_dataset([5, 7], block_samples=3): shards of 5 and 7 numbered images; label = n % 3."""

    def make(shards: Sequence[int], block_samples: int = 4, name: str = "set") -> ShardedDataset:
        folder = open_storage(str(tmp_path / name))
        rows, first = [], 0
        for k, count in enumerate(shards):
            samples = [
                ShardSample(f"{n:08d}", encode_png(number_image(n)), "png", n % 3)
                for n in range(first, first + count)
            ]
            rows.append(write_shard(folder, f"s{k:03d}.tar", samples, block_samples=block_samples))
            first += count
        finish_dataset(folder, rows, DatasetInfo("train", (1, 4, 4), 3, ("a", "b", "c")))
        return open_dataset(folder.url)

    return make
