"""Samples to shards, byte for byte the same each time; used to prepare data and to keep samples.

A shard is built in memory, hashed and written under a temporary name, then renamed.
`dataset.json` comes last: until then the folder is not a dataset for anyone.
"""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import NamedTuple

from webdataset import TarWriter

from pipeline.data.decode import IMAGE_EXTENSIONS, safe_key
from pipeline.data.manifest import (
    DATASET,
    MANIFEST,
    Block,
    DatasetInfo,
    ShardRow,
    info_bytes,
    manifest_bytes,
)
from pipeline.storage import Location

BLOCK_SAMPLES = 128
BLOCK_BYTES = 4 * 2**20
_LONGEST_KEY = 90  # bytes; a tar header holds 100, extension included


@dataclass(frozen=True)
class ShardSample:
    """One sample to be written."""

    key: str  # unique in the dataset; no dots
    image: bytes  # encoded
    extension: str  # "png", "jpg", "jpeg" or "webp"
    label: int | None = None  # written as .cls
    extra: Mapping[str, object] | None = None  # written as .json


class EncodedShard(NamedTuple):
    """A shard that is ready to be written under its name."""

    row: ShardRow
    data: bytes | memoryview
    extents: list[tuple[int, int]]  # of each sample: where it begins, and bytes


def write_shard(
    folder: Location,
    name: str,
    samples: Iterable[ShardSample],
    *,
    block_samples: int = BLOCK_SAMPLES,
) -> ShardRow:
    """Write `samples` as the tar `folder/name` and return its row for the manifest.

    Raises ValueError for no samples, repeated or unusable keys; InputError where the storage
    refuses the file.
    """
    shard = encode_shard(name, samples, block_samples=block_samples)
    (folder / name).write_bytes(shard.data)
    return shard.row


def encode_shard(
    name: str, samples: Iterable[ShardSample], *, block_samples: int = BLOCK_SAMPLES
) -> EncodedShard:
    """`samples` as the bytes of a tar, in blocks of `block_samples`.

    Raises ValueError for no samples, repeated or unusable keys.
    """
    samples = list(samples)
    _check(name, samples)
    buffer = io.BytesIO()
    starts = []
    with TarWriter(buffer, encoder=False, mtime=0, user="", group="") as writer:
        for sample in samples:
            starts.append(writer.tarstream.offset)
            writer.write(_fields(sample))
        end = writer.tarstream.offset
    data = buffer.getbuffer()
    blocks = tuple(
        Block(start, stop - start, count, zlib.crc32(data[start:stop]))
        for start, stop, count in cut_blocks([*starts, end], block_samples)
    )
    extents = [(start, stop - start) for start, stop in pairwise([*starts, end])]
    return EncodedShard(shard_row(name, samples, data, blocks), data, extents)


def shard_row(
    name: str, samples: Sequence[ShardSample], data: bytes | memoryview, blocks: tuple[Block, ...]
) -> ShardRow:
    """The manifest's row for a shard whose bytes are `data`."""
    counts = Counter(sample.label for sample in samples if sample.label is not None)
    return ShardRow(
        shard=name,
        samples=len(samples),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        label_counts=tuple(sorted(counts.items())),
        blocks=blocks,
    )


def usable_key(key: str) -> bool:
    """Whether `key` can name a sample: a plain relative name, no dots, and fit for a tar header."""
    return safe_key(key) and "." not in key and len(key.encode()) <= _LONGEST_KEY


def cut_blocks(
    offsets: Sequence[int], block_samples: int, block_bytes: int = BLOCK_BYTES
) -> list[tuple[int, int, int]]:
    """Group consecutive samples into blocks of at most `block_samples` and about `block_bytes`.

    `offsets`: where each sample begins, then where the last ends. Returns (begin, end, samples).
    """
    blocks = []
    first = 0
    for i in range(1, len(offsets)):
        full = i - first == block_samples or offsets[i] - offsets[first] >= block_bytes
        if full or i == len(offsets) - 1:
            blocks.append((offsets[first], offsets[i], i - first))
            first = i
    return blocks


def finish_dataset(folder: Location, rows: Sequence[ShardRow], info: DatasetInfo) -> DatasetInfo:
    """Write the manifest, then `dataset.json`; return `info` with its counts and digest filled in.

    Raises ValueError for no rows or a shard named twice.
    """
    names = [row.shard for row in rows]
    if not rows or len(set(names)) != len(names):
        raise ValueError(f"need at least one shard, each once, got {names}")
    manifest = manifest_bytes(rows, info.shape)
    finished = replace(
        info,
        samples=sum(row.samples for row in rows),
        manifest_sha256=hashlib.sha256(manifest).hexdigest(),
    )
    (folder / MANIFEST).write_bytes(manifest)
    (folder / DATASET).write_bytes(info_bytes(finished))
    return finished


def _fields(sample: ShardSample) -> dict[str, object]:
    fields: dict[str, object] = {"__key__": sample.key, sample.extension: sample.image}
    if sample.label is not None:
        fields["cls"] = str(sample.label).encode()
    if sample.extra is not None:
        fields["json"] = json.dumps(sample.extra, sort_keys=True, ensure_ascii=False).encode()
    return fields


def _check(name: str, samples: Sequence[ShardSample]) -> None:
    if not samples:
        raise ValueError(f"{name}: a shard needs at least one sample")
    repeated = [key for key, n in Counter(s.key for s in samples).items() if n > 1]
    if repeated:
        raise ValueError(f"{name}: repeated keys {repeated[:5]}")
    for sample in samples:
        if not usable_key(sample.key):
            raise ValueError(f"{name}: key {sample.key!r} is not a plain, short name without dots")
        if sample.extension not in IMAGE_EXTENSIONS:
            raise ValueError(
                f"{name}: extension {sample.extension!r} is none of {IMAGE_EXTENSIONS}"
            )
