"""What a step of a whole training run costs beside bare arithmetic, and what ranks cost each other.

The model is the paper's U-Net, 64 wide, with 4 blocks each way (1.33 M parameters), on 32 images of
32 x 32 x 3 for each worker: Fashion-MNIST with a margin, three times. All else is as in
`jobs/presets/fashion_mnist_cpu.yaml`. Every pair of steps is taken in turns, in one process for
each rank.

    OMP_NUM_THREADS=1 python -m pytest tests/benchmarks/test_training_ratios.py -m benchmark -s
"""

import gzip
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.config.load import load_config
from pipeline.config.train import TrainConfig
from pipeline.data.decode import encode_png
from pipeline.data.manifest import DatasetInfo
from pipeline.data.writer import ShardSample, finish_dataset, write_shard
from pipeline.storage import open_storage

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
STAGES = ("stage 0", "stage 1", "stage 2")


def configure(folder: Path, workers: int) -> TrainConfig:
    """The preset with that network and those images, 1,000 of them."""
    with gzip.open(ROOT / "data/fashion_mnist/t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)
    pixels = np.pad(pixels, ((0, 0), (0, 0), (2, 2), (2, 2))).repeat(3, axis=1)
    samples = [
        ShardSample(f"{n:06d}", encode_png(image), "png", n % 10) for n, image in enumerate(pixels)
    ]
    at = open_storage(str(folder / "set"))
    rows = [write_shard(at, f"s{k}.tar", samples[k::4]) for k in range(4)]
    finish_dataset(at, rows, DatasetInfo("train", (3, 32, 32), 10))
    preset = str(ROOT / "jobs/presets/fashion_mnist_cpu.yaml")
    overrides = [
        f"root={folder}",
        "data.train=set",
        f"data.batch_size={32 * workers}",
        f"cluster.workers={workers}",
        "steps=20",
        "tracking={log_every: 5, picture_every: 1000}",
        "checkpoint.every_steps=1000",
        "model.network={kind: unet, width: 64, blocks: 4}",
    ]
    return load_config(TrainConfig, [preset], overrides)


def show(found: dict[str, Any], side: str, beside: str) -> None:
    """Print the median of the rounds' ratios, by the clock and in CPU time."""
    ratios = (found[side] / found[beside]).median(0).values.tolist()
    clocks = [1e3 * found[name].median(0).values[0].item() for name in (side, beside)]
    print(
        f"\n  {side} / {beside}: {ratios[0]:.3f}, in CPU time {ratios[1]:.3f} "
        f"({clocks[0]:.0f} and {clocks[1]:.0f} ms)",
        end="",
    )


def test_one_worker(tmp_path: Path, launch: Any) -> None:
    """Prints whole line / bare loop, and each ZeRO stage / plain torch with the same draws."""
    found = launch("ratio_ranks", 1, tmp_path, config=configure(tmp_path, 1))
    print("\none worker, bfloat16:", end="")
    show(found, "whole", "bare")
    for stage in STAGES:
        show(found, stage, "plain")


def test_two_workers(tmp_path: Path, launch: Any) -> None:
    """Prints each ZeRO stage on two ranks / two ranks that train for themselves."""
    found = launch("ratio_ranks", 2, tmp_path, config=configure(tmp_path, 2))
    print("\ntwo gloo ranks beside two that do not talk:", end="")
    for stage in STAGES:
        show(found, stage, "plain")
