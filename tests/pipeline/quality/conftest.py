"""Sets of given images, and a small classifier whose answers depend on everything."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline.config.model import ClassifierConfig
from pipeline.data.decode import encode_png
from pipeline.data.manifest import DatasetInfo
from pipeline.data.writer import ShardSample, finish_dataset, write_shard
from pipeline.model.classifier_export import ClassifierCard, classifier_bytes
from pipeline.storage import open_storage
from vdm_core.networks.classifier import NoiseAwareClassifier


@pytest.fixture
def write_set(tmp_path: Path) -> Callable[..., str]:
    """write_set(name, images (N,C,H,W) uint8, labels): a set of two shards; its path."""

    def write(
        name: str, images: np.ndarray, labels: list[int] | None = None, levels: int = 256
    ) -> str:
        folder = open_storage(str(tmp_path / name))
        samples = [
            ShardSample(f"{n:06d}", encode_png(image), "png", labels[n] if labels else None)
            for n, image in enumerate(images)
        ]
        half = (len(samples) + 1) // 2
        parts = [part for part in (samples[:half], samples[half:]) if part]
        rows = [write_shard(folder, f"s{k}.tar", p, block_samples=5) for k, p in enumerate(parts)]
        classes = max(labels) + 1 if labels else None
        names = tuple("abc"[:classes]) if classes else ()
        info = DatasetInfo(name, images.shape[1:], classes, names, levels)
        finish_dataset(folder, rows, info)
        return folder.url

    return write


@pytest.fixture
def classifier(tmp_path: Path) -> str:
    """The folder of a classifier of (1,8,8) images with random weights, the last layer's too."""
    config = ClassifierConfig(width=8, multipliers=(1, 2), blocks=1)
    torch.manual_seed(0)
    network = NoiseAwareClassifier(1, 3, config.width, config.multipliers, config.blocks)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    card = ClassifierCard(
        network=config, shape=(1, 8, 8), classes=3, class_names=("a", "b", "c"), schedule_sha256=""
    )
    folder = open_storage(str(tmp_path / "classifier"))
    for name, data in classifier_bytes(network.state_dict(), card).items():
        (folder / name).write_bytes(data)
    return folder.url
