"""A finished sharded dataset, opened and checked: what the stream reads from."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decode import Defect
from pipeline.data.encoded import Encoded, encoded, encoded_block, gathered
from pipeline.data.manifest import Block, DatasetInfo, ShardRow, read_info, read_manifest
from pipeline.data.tar_reader import damaged
from pipeline.errors import InputError
from pipeline.storage import Location, open_storage

_PARALLEL_READS = 8


class ShardBlock(NamedTuple):
    """A block, the shard it lies in, and which of its samples are used."""

    shard: str
    block: Block
    kept: tuple[int, ...] | None = None  # rows within the block, ascending; None is all

    @property
    def samples(self) -> int:
        """How many are used."""
        return self.block.samples if self.kept is None else len(self.kept)


@dataclass(frozen=True)
class ShardedDataset:
    """Description, manifest and place of a dataset."""

    info: DatasetInfo
    folder: Location  # of the manifest
    shards_at: Location
    rows: tuple[ShardRow, ...]
    blocks: tuple[ShardBlock, ...]  # of all shards, in manifest order
    label_counts: tuple[int, ...]  # samples of each class; empty when unlabelled

    @property
    def block_samples(self) -> NDArray[np.int64]:
        """Samples in each block, (blocks,)."""
        return np.array([block.samples for block in self.blocks], dtype=np.int64)

    def read_blocks(self, indices: Sequence[int]) -> list[Encoded]:
        """The samples of each named block, in order, with an error for each lost one.

        The bytes are fetched in parallel, because object stores answer slowly but many at once.
        """
        pieces = list(_readers().map(self._fetch, indices))
        return [self._parse(index, data) for index, data in zip(indices, pieces, strict=True)]

    def _fetch(self, index: int) -> bytes | OSError:
        shard, block, _ = self.blocks[index]
        try:
            return (self.shards_at / shard).read_range(block.offset, block.bytes)
        except OSError as error:
            return error

    def _parse(self, index: int, data: bytes | OSError) -> Encoded:
        shard, block, kept = self.blocks[index]
        if isinstance(data, OSError):
            lost = damaged(block, str(data), shard, Defect.UNREADABLE_SHARD)
            samples = encoded(lost, self.info.classes)
        else:
            samples = encoded_block(data, block, shard, self.info.classes)
        return samples if kept is None else gathered([(samples, row) for row in kept])


@cache
def _readers() -> ThreadPoolExecutor:
    """The reading threads of this process; they wait for the storage, not for each other."""
    return ThreadPoolExecutor(_PARALLEL_READS, thread_name_prefix="read")


def open_dataset(url_or_path: str) -> ShardedDataset:
    """Open the dataset in a folder, after the checks that need no shard to be read.

    Raises InputError for a missing or foreign `dataset.json` or manifest, one that does not match
    the other, and for missing or truncated shards (by their sizes).
    """
    folder = open_storage(url_or_path)
    info = read_info(folder)
    if info.container != "tar":
        raise InputError(
            f"{folder} holds {info.container} files, and only tar shards can be streamed; pack it "
            "with jobs.prepare (kind: parquet), or draw the samples with format=webdataset"
        )
    rows = read_manifest(folder, info)
    shards_at = folder if info.shards_at == "." else open_storage(info.shards_at)
    _check_sizes(shards_at, rows)
    blocks = tuple(ShardBlock(row.shard, block) for row in rows for block in row.blocks)
    if sum(b.block.samples for b in blocks) != info.samples:
        raise InputError(
            f"{folder}: manifest and dataset.json disagree on the number of samples; "
            "run jobs.prepare again with overwrite=true"
        )
    return ShardedDataset(info, folder, shards_at, rows, blocks, _label_counts(info, rows))


def _label_counts(info: DatasetInfo, rows: tuple[ShardRow, ...]) -> tuple[int, ...]:
    if info.classes is None:
        return ()
    counts = [0] * info.classes
    for row in rows:
        for label, samples in row.label_counts:
            counts[label] += samples
    return tuple(counts)


def _check_sizes(shards_at: Location, rows: tuple[ShardRow, ...]) -> None:
    """By one listing: every worker does this, and an object store lists a thousand at a time."""
    sizes = shards_at.file_sizes(recursive=any("/" in row.shard for row in rows))
    wrong = [
        f"{row.shard} ({sizes[row.shard]} of {row.bytes} bytes)"
        if row.shard in sizes
        else f"{row.shard} (missing)"
        for row in rows
        if sizes.get(row.shard) != row.bytes
    ]
    if wrong:
        raise InputError(
            f"{shards_at}: {len(wrong)} of {len(rows)} shards are missing or cut short: "
            f"{', '.join(wrong[:5])}; restore them or run jobs.prepare again with overwrite=true"
        )
