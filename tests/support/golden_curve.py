"""The golden loss curve: a short training on real images, in plain PyTorch and one process.

    python tests/support/golden_curve.py    # writes tests/golden/loss_curve.json anew

Do that only where the mathematics, the initial weights or the order of the data were changed on
purpose, and say so in the changelog: runs of before continue differently, too.
"""

import json
import tempfile
from pathlib import Path

import torch

from pipeline.config.load import load_config
from pipeline.config.train import TrainConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.decode import encode_png
from pipeline.data.manifest import DatasetInfo
from pipeline.data.mixture import single
from pipeline.data.stream import TrainingStream
from pipeline.data.writer import ShardSample, finish_dataset, write_shard
from pipeline.model.build import build_vdm
from pipeline.prepare.sources.idx import read_idx
from pipeline.storage import open_storage
from pipeline.training.optimizer import adamw, learning_rate_scale
from pipeline.training.step import StepSettings, training_draws
from vdm_core.decoder import radius

ROOT = Path(__file__).resolve().parents[2]
GOLDEN = ROOT / "tests/golden/loss_curve.json"
SHIPPED = ROOT / "data/fashion_mnist"
SHAPE, CLASSES, STEPS = (1, 28, 28), 10, 40
CPU = torch.device("cpu")


def pack(folder: Path) -> None:
    """Every 20th of the shipped images, in two shards, as folder/set."""
    images = read_idx(str(SHIPPED / "train-images-idx3-ubyte.gz"), dimensions=3)[::20]
    labels = read_idx(str(SHIPPED / "train-labels-idx1-ubyte.gz"), dimensions=1)[::20]
    samples = [
        ShardSample(f"{n:06d}", encode_png(image[None]), "png", int(label))
        for n, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    at = open_storage(str(folder / "set"))
    rows = [write_shard(at, f"s{k}.tar", samples[k::2], block_samples=25) for k in range(2)]
    names = tuple(str(label) for label in range(CLASSES))
    finish_dataset(at, rows, DatasetInfo("train", SHAPE, CLASSES, names))


def config(folder: Path, *overrides: str) -> TrainConfig:
    """What is trained: a small U-Net, a learned monotone schedule, everything switched on."""
    base = [
        *("name=golden", "seed=11", f"steps={STEPS}", f"root={folder}"),
        "data={train: set, batch_size: 16, lanes: 4, shuffle_window: 64}",
        "model.network={kind: downsampling_unet, width: 8, multipliers: [1, 2], blocks: 1}",
        *("model.schedule.kind=monotone", "model.drop_label=0.1"),
        "optimizer={learning_rate: 1e-3, warmup_steps: 5, decay: cosine}",
        *("checkpoint.every_steps=1000", "tracking.log_every=1", "tracking.picture_every=1000"),
    ]
    return load_config(TrainConfig, [], [*base, *overrides])


def plain_curve(config: TrainConfig) -> list[float]:
    """The training loss of every step, in bits/dim."""
    data, losses = config.data, []
    vdm = build_vdm(config.model, SHAPE, CLASSES, config.seed, levels=256)
    optimizer = adamw(vdm, config.optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    settings = StepSettings(
        seed=config.seed,
        global_batch=data.batch_size,
        conditional=True,
        drop_label=config.model.drop_label,
        dims=28 * 28,
        decoder_radius=radius(config.model.schedule.gamma_0, 256),
    )
    stream = TrainingStream(
        single(open_dataset(config.train_paths[0])),
        seed=config.seed,
        global_batch=data.batch_size,
        rank=0,
        world_size=1,
        micro_batch=data.batch_size,
        lanes=data.lanes,
        shuffle_window=data.shuffle_window,
    )
    for step, batch in zip(range(config.steps), stream, strict=False):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_scale(step, config.optimizer, config.steps)
        labels, draws = training_draws(vdm.draws(SHAPE), batch, settings, CPU)
        loss = vdm(batch.images, labels, **draws).bits_per_dim(28 * 28).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vdm.parameters(), config.optimizer.gradient_clipping)
        optimizer.step()
        losses.append(float(loss.detach()))
    stream.close()
    return losses


if __name__ == "__main__":
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        pack(Path(temporary))
        curve = plain_curve(config(Path(temporary)))
    GOLDEN.parent.mkdir(exist_ok=True)
    GOLDEN.write_text(json.dumps({"bits_per_dim": curve}, indent=1) + "\n")
