"""Samples per CPU-second of the stream, beside plain webdataset with Pillow.

Every side reads the same shards, from the page cache, and hands over batches of 64 images with
labels; ours shuffles in windows, checks CRC-32 and knows its position too. The sides alternate
in one process, on one core; medians of CPU time are compared. Quick decoders need the extra `fast`.

"webdataset + Pillow" is what its documentation shows, in the quickest of the usual forms: samples
one by one, without batches, are 1 to 4 % quicker; collated by a DataLoader, or decoded to "pil" or
"torchrgb8", they are 2 to 8 % slower. "quick decoder alone" has the encoded pictures in memory and
does nothing else: it is the limit of the stream, whose share of it says what reading, checking,
shuffling and collating cost. MosaicML Streaming reads a format of its own and is left out.

    OMP_NUM_THREADS=1 python -m pytest tests/benchmarks/test_stream_speed.py -m benchmark -s

CIFAR-10 and photos are read from ../shared/data. Without the first, padded Fashion-MNIST from this
repository takes its place; without the second, the JPEG rows are skipped.
"""

import gc
import gzip
import io
import itertools
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
import webdataset as wds
from PIL import Image

from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.decode_fast import decode_fast
from pipeline.data.manifest import DatasetInfo
from pipeline.data.stream import TrainingStream
from pipeline.data.writer import ShardSample, finish_dataset, write_shard
from pipeline.storage import open_storage

pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),  # webdataset's
]

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
FASHION = ROOT / "data" / "fashion_mnist" / "t10k-images-idx3-ubyte.gz"
BATCH, ROUNDS, SHARDS = 64, 5, 4
Side = Callable[[], Iterator[Any]]


def encoded(image: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def small_images() -> list[np.ndarray]:
    """2,000 images of 32 x 32 x 3."""
    file = SHARED / "cifar10" / "test-00000-of-00001.parquet"
    if file.exists():
        rows = pq.read_table(file, columns=["image"])["image"].slice(0, 2000).to_pylist()
        return [np.asarray(Image.open(io.BytesIO(row)).convert("RGB")) for row in rows]
    with gzip.open(FASHION) as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 28, 28, 1)
    padded = np.pad(pixels[:2000], ((0, 0), (2, 2), (2, 2), (0, 0)))
    return list(np.repeat(padded, 3, axis=3))


def photo_squares(side: int, count: int) -> list[np.ndarray]:
    file = SHARED / "photos" / "photos-00000-of-00001.parquet"
    if not file.exists():
        pytest.skip(f"no photos: {file} is not there")
    squares = []
    for row in pq.read_table(file, columns=["image"])["image"].slice(0, count).to_pylist():
        picture = Image.open(io.BytesIO(row)).convert("RGB")
        edge = min(picture.size)
        box = ((picture.width - edge) / 2, (picture.height - edge) / 2)
        area = (*box, box[0] + edge, box[1] + edge)
        squares.append(np.asarray(picture.resize((side, side), Image.Resampling.LANCZOS, area)))
    return squares


KINDS: dict[str, tuple[int, int, str, dict[str, Any]]] = {  # side, samples, format, options
    "32 px PNG": (32, 6_000, "PNG", {}),
    "32 px WebP": (32, 6_000, "WEBP", {"lossless": True}),
    "64 px JPEG": (64, 4_000, "JPEG", {"quality": 90}),
    "256 px JPEG": (256, 480, "JPEG", {"quality": 90}),
}
EXTENSIONS = {"PNG": "png", "WEBP": "webp", "JPEG": "jpg"}


def dataset_of(kind: str, folder: Path) -> ShardedDataset:
    side, samples, form, options = KINDS[kind]
    images = small_images() if side == 32 else photo_squares(side, 200)
    pictures = [encoded(image, form, **options) for image in images]
    rows, per_shard, at = [], samples // SHARDS, open_storage(str(folder))
    for shard in range(SHARDS):
        numbers = range(shard * per_shard, (shard + 1) * per_shard)
        packed = [
            ShardSample(f"{n:08d}", pictures[n % len(pictures)], EXTENSIONS[form], n % 10)
            for n in numbers
        ]
        rows.append(write_shard(at, f"shard-{shard:03d}.tar", packed))
    finish_dataset(at, rows, DatasetInfo("train", (3, side, side), 10))
    return open_dataset(str(folder))


def webdataset_batches(dataset: ShardedDataset, fast: bool) -> Iterator[Any]:
    """What its documentation shows, with a shuffle buffer as large as ours."""
    urls = [f"{dataset.shards_at.path}/{row.shard}" for row in dataset.rows]
    stream = wds.WebDataset(urls, shardshuffle=False).shuffle(1024)
    if fast:
        decoded = stream.decode(wds.handle_extension("png jpg webp", decode_fast))
    else:
        decoded = stream.decode("rgb8")
    return iter(decoded.to_tuple("png;jpg;webp", "cls").batched(BATCH, partial=False))


def stream_of(dataset: ShardedDataset, **changes: Any) -> TrainingStream:
    settings = {
        "seed": 0, "global_batch": BATCH, "rank": 0, "world_size": 1, "micro_batch": BATCH,
        "lanes": 2, "shuffle_window": 1024, "prefetch": 0,
    }  # fmt: skip
    return TrainingStream(dataset, **(settings | changes))


def decoded_alone(pictures: Sequence[bytes]) -> Iterator[Any]:
    """Nothing but the quick decoder."""
    for i in range(0, len(pictures) - BATCH + 1, BATCH):
        yield [decode_fast(picture) for picture in pictures[i : i + BATCH]]


def cpu_seconds(side: Side, batches: int) -> float:
    gc.collect()
    gc.freeze()  # no side pays for the objects of another, or of imported libraries
    start = time.process_time()
    assert sum(1 for _ in itertools.islice(side(), batches)) == batches
    return time.process_time() - start


@pytest.mark.parametrize("kind", KINDS)
def test_samples_per_cpu_second(kind: str, tmp_path: Path) -> None:
    """Prints a row for each side, in times plain webdataset."""
    pytest.importorskip("simplejpeg")
    pytest.importorskip("imagecodecs")
    torch.set_num_threads(1)
    dataset = dataset_of(kind, tmp_path)
    blocks = dataset.read_blocks(range(len(dataset.blocks)))
    pictures = [picture for block in blocks for picture in block.pictures]
    assert all(isinstance(picture, bytes) for picture in pictures)
    sides: dict[str, Side] = {
        "webdataset + Pillow": lambda: webdataset_batches(dataset, fast=False),
        "webdataset + quick decoder": lambda: webdataset_batches(dataset, fast=True),
        "quick decoder alone": lambda: decoded_alone(pictures),
        "here": lambda: iter(stream_of(dataset)),
    }
    batches = dataset.info.samples // BATCH
    times: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            times[name].append(cpu_seconds(side, batches))
    medians = {name: statistics.median(values) for name, values in times.items()}
    print(f"\n{kind}: samples per CPU-second, and in times webdataset + Pillow")
    for name, median in medians.items():
        ratio = medians["webdataset + Pillow"] / median
        print(f"  {name:28s}{batches * BATCH / median:10,.0f}{ratio:8.2f}")
    print(f"  here / decoder alone {medians['quick decoder alone'] / medians['here']:25.2f}")


def wall_seconds(batches: Iterator[Any], count: int) -> float:
    start = time.perf_counter()
    assert sum(1 for _ in itertools.islice(batches, count)) == count
    return time.perf_counter() - start


def test_loader_processes(tmp_path: Path) -> None:
    """Prints images per second of wall time for one and two processes, in steady state.

    And the CPU time of the training process, which is what the processes cannot take off it.
    """
    dataset = dataset_of("256 px JPEG", tmp_path)
    speeds: dict[int, list[float]] = {1: [], 2: []}
    own: list[float] = []
    for _ in range(3):
        for processes, found in speeds.items():
            stream = stream_of(dataset, loader_workers=processes, shuffle_window=128)
            batches = iter(stream)
            next(batches)  # the processes have started
            wall_seconds(batches, 6)
            before = time.process_time()
            found.append(20 * BATCH / wall_seconds(batches, 20))
            own.append((time.process_time() - before) / (20 * BATCH) * 1e6)
            stream.close()
    one, two = (statistics.median(found) for found in speeds.values())
    print(f"\nloader processes, 256 px JPEG: one {one:,.0f} images/s, two {two:,.0f}", end="")
    print(f": {two / one:.2f} times; here {statistics.median(own):.0f} us of CPU an image")


def test_time_to_the_first_batch_after_a_resumption(tmp_path: Path) -> None:
    """Prints it for a fresh start and for one deep in the tenth epoch."""
    dataset = dataset_of("32 px PNG", tmp_path)
    deep = (9 * dataset.info.samples + dataset.info.samples // 2) // BATCH * BATCH
    times: dict[int, list[float]] = {0: [], deep: []}
    for _ in range(2 * ROUNDS):
        for start, found in times.items():
            found.append(wall_seconds(iter(stream_of(dataset, start=start)), 1))
    fresh, resumed = (statistics.median(found) * 1e3 for found in times.values())
    print(f"\nfirst batch: fresh {fresh:.1f} ms, deep in an epoch {resumed:.1f} ms", end="")
    print(f": {resumed / fresh:.2f} times")
