"""Every training preset that ships trains: its own settings, at a reduced size."""

import math
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.load import load_config
from pipeline.config.train import TrainConfig
from pipeline.data.order import reads_per_sample

FOLDER = Path(__file__).resolve().parents[3] / "jobs/presets"
SMALL_UNET = ["model.network.width=8", "model.network.blocks=1"]
SMALL_VAE = ["model.widths=[8, 8]", "model.blocks=1"]
SMALL_DIT = [f"model.network.{key}=1" for key in ("depth", "heads", "patch")]
REDUCED = {
    "fashion_mnist_cpu": SMALL_UNET,
    "cifar10_paper": SMALL_UNET,
    "cifar10_fast": SMALL_UNET,
    "imagenet32": SMALL_UNET,
    "imagenet64": SMALL_UNET,
    "imagenet256_vae": SMALL_VAE,
    "imagenet256_latent": [
        *SMALL_DIT, "model.network.width=16", "model.of=null",
        "model.vae={kind: vae, widths: [8, 8], blocks: 1}",
    ],
}  # fmt: skip
PRESETS = tuple(REDUCED)


def reduced(name: str, root: Path) -> TrainConfig:
    """The preset on 4 images a step, on one CPU, with the data set in `root`."""
    preset = str(FOLDER / f"{name}.yaml")
    overrides = [
        f"root={root}",
        "steps=2",
        "data={train: set, batch_size: 4, lanes: 2, shuffle_window: 8, loader_workers: 0}",
        "cluster={workers: 1, gpus_per_worker: 0}",
        "deepspeed.compile=false",
        "tracking.log_every=1",
        *REDUCED[name],
    ]
    return load_config(TrainConfig, [preset], overrides)


@pytest.fixture(scope="module")
def losses(launch: Any, pack: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Of each preset's two steps, in bits/dim."""
    folder = tmp_path_factory.mktemp("presets")
    pack(folder / "set")
    return launch("preset_ranks", 1, folder, **{n: reduced(n, folder) for n in PRESETS})


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_trains(losses: Any, name: str) -> None:
    """Two steps with finite losses, and the second differs: the weights moved, the data went on."""
    first, second = losses[name]
    assert math.isfinite(first)
    assert math.isfinite(second)
    assert first != second


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_reads_each_image_once(name: str) -> None:
    """On its own workers and, in the same run, on fewer of them and on twice as many."""
    config = load_config(TrainConfig, [str(FOLDER / f"{name}.yaml")], [])
    most = config.cluster.worker_counts[-1]
    for workers in (1, most, 2 * most):
        data, micro = config.data, config.on_workers(workers).micro_batch
        processes = data.loader_workers or 1
        assert reads_per_sample(
            workers, lanes=data.lanes, shuffle_window=data.shuffle_window,
            processes=processes, micro_batch=micro,
        ) == 1, (workers, data.lanes)  # fmt: skip


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_says_how_and_what_to_expect(name: str) -> None:
    """Its header has the command, with its own file, and a result in bits/dim."""
    text = (FOLDER / f"{name}.yaml").read_text()
    header = "\n".join(line for line in text.splitlines() if line.startswith("#"))
    assert "python -m jobs.train" in header
    assert f"--config jobs/presets/{name}.yaml" in header
    assert "bits/dim" in header


def test_the_papers_values() -> None:
    """Those of appendix B that decide the result."""
    config = load_config(TrainConfig, [str(FOLDER / "cifar10_paper.yaml")], [])
    assert (config.model.network.width, config.model.network.blocks) == (128, 32)
    assert config.data.batch_size == 128
    assert config.optimizer.learning_rate == 2e-4
    assert [average.decay for average in config.optimizer.ema] == [0.9999]
