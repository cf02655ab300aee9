"""What a cluster of any size asks of the driver, of a worker and of the storage.

The real code runs for one simulated worker after the other, in one process: streaming, saving,
resuming, sampling. There are no GPUs and no network; the storage is a folder that counts requests
as an object store would be sent them.
"""

from collections.abc import Sequence
from itertools import islice
from pathlib import PurePosixPath
from threading import Event

import numpy as np
import torch

from pipeline.checkpoint.fragment import Fragment
from pipeline.checkpoint.rank_file import RankFile
from pipeline.checkpoint.read import CheckpointReader, Wanted, wrong_size
from pipeline.checkpoint.record import CheckpointRecord, checkpoint_name, newest_first
from pipeline.checkpoint.share import Share
from pipeline.checkpoint.write import Save, commit, write_part
from pipeline.config.model import ModelConfig
from pipeline.config.sample import SampleConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.decode import encode_png
from pipeline.data.manifest import DatasetInfo, ShardRow
from pipeline.data.mixture import single
from pipeline.data.source import Cut, Source
from pipeline.data.transform import NO_TRANSFORM
from pipeline.data.writer import ShardSample, finish_dataset, write_shard
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard
from pipeline.sampling.output_folder import ROWS
from pipeline.sampling.plan import LoadedModel, SetPlan
from pipeline.sampling.rows import ClassTurns
from pipeline.sampling.shard_rows import FinishedShard, finished_bytes, sample_rows
from pipeline.storage import Location

KINDS = ("weights", "exp_avg", "exp_avg_sq", "ema/decay_0.9999")
Ranges = list[tuple[str, int, int]]


def write_images(folder: Location, shards: int, samples: int, block_samples: int) -> None:
    """A data set of so many shards of so many equal images."""
    image = encode_png(np.zeros((1, 4, 4), np.uint8))
    rows = [
        write_shard(
            folder,
            f"shard-{shard:06d}.tar",
            [ShardSample(f"{shard:06d}-{n:06d}", image, "png", n % 3) for n in range(samples)],
            block_samples=block_samples,
        )
        for shard in range(shards)
    ]
    finish_dataset(folder, rows, DatasetInfo("train", (1, 4, 4), 3, ("a", "b", "c")))


def stream(
    dataset: ShardedDataset,
    workers: int,
    only: Sequence[int],
    *,
    lanes: int,
    window: int,
    batch: int,
) -> int:
    """One epoch in steps of `batch` images, for these of the workers; the samples that they saw."""
    source = Source(single(dataset), 0, lanes, window, NO_TRANSFORM)
    own, seen = batch // workers, 0
    for rank in only:
        filler, cut = source.open(), Cut(batch, rank, workers, own, 0)
        images = np.empty((own, 4, 4, 1), np.uint8)
        for indices in islice(cut.micro_batches(), dataset.info.samples // batch):
            seen += int(filler.fill(images, indices).valid.sum())
    return seen


def ranges_of(stage: int, sizes: dict[str, int], rank: int, ranks: int) -> Ranges:
    """What ZeRO gives a rank.

    At stage 0 a stretch of all parameters in a row, at 1 and 2 one of each of the optimizer's
    groups (here two), at 3 a part of each parameter.
    """
    if stage == 3:
        return list(Share(rank, ranks).ranges(sizes))
    if stage == 0:
        return _stretch(sizes, rank, ranks)
    named = list(sizes.items())
    both = [_stretch(dict(named[first::2]), rank, ranks) for first in (0, 1)]
    places = {name: place for place, name in enumerate(sizes)}
    return sorted([*both[0], *both[1]], key=lambda part: places[part[0]])


def _stretch(sizes: dict[str, int], rank: int, ranks: int) -> Ranges:
    total, at = sum(sizes.values()), 0
    first, end, found = total * rank // ranks, total * (rank + 1) // ranks, []
    for name, size in sizes.items():
        low, high = max(first - at, 0), min(end - at, size)
        if low < high:
            found.append((name, low, high - low))
        at += size
    return found


def fragments_of(ranges: Ranges) -> list[Fragment]:
    """With zeros in them."""
    return [Fragment(name, offset, torch.zeros(length)) for name, offset, length in ranges]


def write_parts(save: Save, stage: int, sizes: dict[str, int]) -> None:
    """What every rank writes at a save."""
    for rank in range(save.world_size):
        fragments = fragments_of(ranges_of(stage, sizes, rank, save.world_size))
        file = RankFile(KINDS, fragments, sizes, Share(rank, save.world_size), pinned=False)
        file.fill([fragment.tensor for _ in KINDS for fragment in fragments])
        write_part(save, rank, file.content(), file.layout)


def save_for(run: Location, ranks: int, step: int = 1) -> Save:
    """The save after `step`."""
    return Save(run / checkpoint_name(step), "life", ranks, patience=0)


def commit_all(save: Save, stage: int, sizes: dict[str, int], step: int = 1) -> None:
    """What rank 0 does at a save after its own part."""
    head = CheckpointRecord(
        step=step, next_index=step, optimizer_steps=step, bits_per_dim=1.0,
        world_size=save.world_size, zero_stage=stage, config_sha256="", files={},
    )  # fmt: skip

    def others(files: object) -> dict[str, bytes]:
        return {"buffers.life.safetensors": b"\x08\0\0\0\0\0\0\0{}      "}

    commit(save, head, {n: (s,) for n, s in sizes.items()}, KINDS, others, Event())


def find_newest(run: Location) -> tuple[Location, CheckpointRecord]:
    """What rank 0 does first at a resume."""
    name, record = next(newest_first(run))
    assert wrong_size(run / name, record.files) is None
    return run / name, record


def read_share(
    folder: Location, record: CheckpointRecord, stage: int, sizes: dict[str, int],
    rank: int, ranks: int,
) -> None:  # fmt: skip
    """What each rank does then: the index, and its share of what the ranks before it wrote."""
    wanted = [
        Wanted(kind, fragment)
        for kind in KINDS
        for fragment in fragments_of(ranges_of(stage, sizes, rank, ranks))
    ]
    CheckpointReader(folder, record).fill(wanted)


def sample_plan(output: Location, actors: int, each: int) -> SetPlan:
    """A set of one shard of `each` samples for every actor, by an untrained model."""
    model = ModelConfig.model_validate({"network": {"kind": "downsampling_unet", "width": 8}})
    card = ModelCard(
        model=model, shape=(1, 8, 8), levels=256, classes=4, class_names=("a", "b", "c", "d"),
        step=1, run="toy", mlflow_run_id=None, dataset_digest="",
    )  # fmt: skip
    vdm = build_vdm(model, card.shape, card.classes, 0, card.levels)
    config = SampleConfig.model_validate(
        {"model": "toy", "output": output.url, "per_class": actors * each // 4,
         "samples_per_shard": each}
    )  # fmt: skip
    rows = ClassTurns(tuple((label, actors * each // 4) for label in range(4)), 0, 1.0)
    loaded = LoadedModel(output, vdm, card, None)
    return SetPlan(config, output, loaded, rows, dict(rows.counts))


def draw_all(plan: SetPlan, plan_sha256: str) -> None:
    """What every actor leaves, but for the images themselves: its rows and that it is done."""
    for task in plan.tasks():
        rows = plan.stored_rows.rows(task.start, task.stop)
        (plan.output / task.shard).write_bytes(b"-")
        row = ShardRow(task.shard, len(rows.ids), 1, "", (), ())
        done = FinishedShard(row, plan_sha256, "simulated", 1.0)
        count = len(rows.ids)
        lines = sample_rows(rows, task.shard, [(0, 1)] * count, [""] * count)
        name = f"{PurePosixPath(task.shard).stem}.parquet"
        (plan.output / ROWS / name).write_bytes(finished_bytes(done, lines))
