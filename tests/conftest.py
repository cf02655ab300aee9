"""What the tests of training share: a tiny configuration, a tiny packed set, ranks to run it on."""

import os
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "DS_ACCELERATOR": "cpu",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}
for name, value in ENVIRONMENT.items():
    os.environ.setdefault(name, value)

import numpy as np  # noqa: E402  the environment comes before whatever reads it
import pytest  # noqa: E402
import torch  # noqa: E402

from pipeline.config.load import load_config  # noqa: E402
from pipeline.config.train import TrainConfig  # noqa: E402
from pipeline.data.decode import encode_png  # noqa: E402
from pipeline.data.manifest import DatasetInfo  # noqa: E402
from pipeline.data.writer import ShardSample, finish_dataset, write_shard  # noqa: E402
from pipeline.storage import open_storage  # noqa: E402

ROOT = Path(__file__).resolve().parents[1]
SHAPE, CLASSES = (1, 8, 8), 3
TINY = """
name: tiny
seed: 5
steps: 6
root: {root}
data: {{train: set, batch_size: 8, lanes: 2, shuffle_window: 8}}
model:
  network: {{kind: downsampling_unet, width: 8, multipliers: [1, 2], blocks: 1}}
  drop_label: 0.3
optimizer: {{learning_rate: 1.0e-2, warmup_steps: 3, ema: [{{decay: 0.9}}, {{width: 0.1}}]}}
checkpoint: {{every_steps: 4}}
tracking: {{log_every: 2, picture_every: 100, picture_images: 3, picture_steps: 2}}
"""
Configure = Callable[..., TrainConfig]
Launch = Callable[..., Any]


@pytest.fixture(scope="session")
def configure() -> Configure:
    """configure(folder, "seed=7", …): the configuration of a run in `folder` that takes seconds."""

    def load(folder: Path, *overrides: str) -> TrainConfig:
        (folder / "tiny.yaml").write_text(TINY.format(root=folder))
        return load_config(TrainConfig, [str(folder / "tiny.yaml")], overrides)

    return load


@pytest.fixture
def tiny(configure: Configure, tmp_path: Path) -> Configure:
    """tiny("seed=7", …): such a configuration in `tmp_path`."""
    return partial(configure, tmp_path)


@pytest.fixture(scope="session")
def pack() -> Callable[..., str]:
    """pack(folder, samples=24, labelled=True, broken=()): a set of 8 x 8 images; its path."""

    def write(
        folder: Path, samples: int = 24, labelled: bool = True, broken: tuple[int, ...] = ()
    ) -> str:
        generator = np.random.default_rng(1)
        images = generator.integers(0, 256, (samples, *SHAPE), dtype=np.uint8)
        shards = [
            ShardSample(
                f"{n:06d}",
                b"no image" if n in broken else encode_png(image),
                "png",
                n % CLASSES if labelled else None,
            )
            for n, image in enumerate(images)
        ]
        at = open_storage(str(folder))
        rows = [write_shard(at, f"s{k}.tar", shards[k::2], block_samples=4) for k in range(2)]
        names = ("a", "b", "c") if labelled else ()
        finish_dataset(at, rows, DatasetInfo("train", SHAPE, CLASSES if labelled else None, names))
        return str(folder)

    return write


@pytest.fixture(scope="session")
def launch() -> Launch:
    """launch(script, workers, folder, **arguments): run tests/pipeline/training/ranks/<script>.py.

    Each worker is a process of its own with torchrun's environment variables, and meets the
    others over gloo. Returns what rank 0 handed to `finish`.
    """

    def run(script: str, workers: int, folder: Path, **arguments: Any) -> Any:
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(arguments, folder / "arguments.pt")
        logs = [folder / f"rank-{rank}.log" for rank in range(workers)]
        processes = [_start(script, folder, log, rank, workers) for rank, log in enumerate(logs)]
        try:
            codes = [process.wait(timeout=280) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.wait()
        assert not any(codes), "\n\n".join(log.read_text()[-6000:] for log in logs)
        return torch.load(folder / "result.pt", weights_only=False)

    return run


def _start(
    script: str, folder: Path, log: Path, rank: int, workers: int
) -> subprocess.Popen[bytes]:
    places = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": workers, "LOCAL_WORLD_SIZE": workers}
    environment = {name: str(value) for name, value in places.items()}
    with log.open("wb") as output:
        return subprocess.Popen(
            [sys.executable, ROOT / f"tests/pipeline/training/ranks/{script}.py", folder],
            env=os.environ | environment | {"PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
