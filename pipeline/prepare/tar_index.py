"""Manifest rows for tar shards that exist: every sample is read and checked, none is rewritten."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from pipeline.config.sample import PoolConfig
from pipeline.data.checksum import crc32
from pipeline.data.decode import SampleError, Shape, decode_label, image_field
from pipeline.data.manifest import MOST_CLASSES, Block, ShardRow
from pipeline.data.sample_index import key_hash
from pipeline.data.tar_reader import Entry, parse_block, sample_offsets
from pipeline.data.writer import cut_blocks
from pipeline.errors import InputError
from pipeline.prepare.kept_index import Indexed, KeptIndex
from pipeline.prepare.source_survey import Expected, survey_tasks
from pipeline.prepare.survey import Survey, Surveyor, merged
from pipeline.storage import Location, open_storage


def index_tars(
    url: str,
    expected: Expected,
    pool: PoolConfig,
    *,
    labelled: bool,
    block_samples: int,
    kept: KeptIndex | None,
) -> tuple[Survey, list[ShardRow]]:
    """Survey all `.tar` files of the folder `url`, a task each; return their manifest rows, too.

    With `kept`, tars that an interrupted run has finished are not read again.

    Raises InputError for no shards, a damaged one, keys that occur twice, unsafe keys and, by
    policy, unusable images. With the policy "skip" these stay where they are, and the stream will
    report and leave them out.
    """
    folder = open_storage(url)
    names = [file for file in folder.files() if file.endswith(".tar")]
    if not names:
        raise InputError(f"{url} holds no .tar files; check the path")
    arguments = (folder, names, expected, labelled, block_samples, kept)
    parts = survey_tasks(len(names), None, Indexed, TarIndexer, arguments, expected, pool)
    _check_keys(folder, parts)
    return merged(part.survey for part in parts), [part.row for part in parts if part.row]


class TarIndexer:
    """Indexes tar number n as task n."""

    def __init__(
        self,
        folder: Location,
        names: Sequence[str],
        expected: Expected,
        labelled: bool,
        block_samples: int,
        kept: KeptIndex | None,
        shape: Shape | None,
    ) -> None:
        """Without `shape`, the first usable image of a tar decides it."""
        self._kept = kept and replace(kept, identity=f"{kept.identity} {shape}")
        self._folder, self._names, self._expected = folder, names, expected
        self._labelled, self._block_samples, self._shape = labelled, block_samples, shape

    def __call__(self, task: int) -> Indexed:
        """What is in the tar; it is kept for the next run where that is wanted."""
        shard = self._folder / self._names[task]
        before = shard.version()
        known = self._kept.read(shard) if self._kept else None
        if known:
            return known
        found = self._index(self._names[task], shard)
        if shard.version() != before:
            raise InputError(f"{shard} changed while it was read; run again when it is complete")
        if self._kept:
            self._kept.write(shard, found)
        return found

    def _index(self, name: str, shard: Location) -> Indexed:
        """The whole file is read block by block, after a look at all headers."""
        surveyor = Surveyor(self._expected.policy, self._expected.classes, self._shape)
        found = Indexed(surveyor.survey)
        offsets = sample_offsets(shard)
        size = shard.size() or 0
        digest = hashlib.sha256(shard.read_range(0, offsets[0]))
        counts: Counter[int] = Counter()
        blocks, hashes = [], []
        for begin, end, samples in cut_blocks(offsets, self._block_samples):
            data = shard.read_range(begin, end - begin)
            digest.update(data)
            blocks.append(Block(begin, end - begin, samples, crc32(data)))
            for record in parse_block(data, blocks[-1], name):
                label = self._survey(record, surveyor)
                hashes.append(key_hash(_key(record)))
                if label is not None:
                    counts[label] += 1
        digest.update(shard.read_range(offsets[-1], size - offsets[-1]))
        found.key_hashes = np.array(hashes, np.uint64).tobytes()
        if blocks:
            labels = tuple(sorted(counts.items()))
            samples = len(offsets) - 1
            found.row = ShardRow(name, samples, size, digest.hexdigest(), labels, tuple(blocks))
        return found

    def _survey(self, record: Entry, surveyor: Surveyor) -> int | None:
        """Check one sample; its label, if it is usable and has one."""
        if isinstance(record, SampleError):
            raise InputError(f"{record}; repack the shard") from record
        label = None
        try:
            if self._labelled:
                label = decode_label(record.fields, surveyor.classes or MOST_CLASSES)
            image = image_field(record.fields)[1]
        except SampleError as error:
            surveyor.refuse(error, record.place)
            return None
        return label if surveyor.add(image, label, record.place) else None


def _key(record: Entry) -> str:
    return record.place.partition("/")[2]


def _check_keys(folder: Location, parts: Sequence[Indexed]) -> None:
    """Raise InputError for a key that occurs twice: equal hashes are looked up in their tars."""
    found = [(part.row, np.frombuffer(part.key_hashes, np.uint64)) for part in parts]
    hashes = np.sort(np.concatenate([own for _, own in found]))
    twice = hashes[1:][hashes[1:] == hashes[:-1]]
    seen: set[str] = set()
    for row, own in found:
        suspects = set(np.flatnonzero(np.isin(own, twice)).tolist())
        if row is None or not suspects:
            continue
        for number, key in enumerate(_keys(folder, row)):
            if number in suspects and key in seen:
                raise InputError(f"{row.shard}/{key}: the key {key} occurs twice; make keys unique")
            if number in suspects:
                seen.add(key)


def _keys(folder: Location, row: ShardRow) -> Iterator[str]:
    for block in row.blocks:
        data = (folder / row.shard).read_range(block.offset, block.bytes)
        yield from map(_key, parse_block(data, block, row.shard))
