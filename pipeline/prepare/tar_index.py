"""Manifest rows for tar shards that exist: every sample is read and checked, none is rewritten."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.config.sample import PoolConfig
from pipeline.data.decode import SampleError, Shape, decode_label, image_field
from pipeline.data.manifest import Block, ShardRow
from pipeline.data.tar_fast import Record
from pipeline.data.tar_reader import parse_block, sample_offsets
from pipeline.data.writer import cut_blocks
from pipeline.errors import InputError
from pipeline.prepare.source_survey import Expected, Surveyed, survey_tasks
from pipeline.prepare.survey import Survey, Surveyor, merged
from pipeline.storage import Location, open_storage

_ANY_LABEL = 2**31


@dataclass
class Indexed(Surveyed):
    """A surveyed tar: its manifest row and the keys in it."""

    row: ShardRow | None = None  # None: it holds no samples
    keys: list[str] = field(default_factory=list)


def index_tars(
    url: str, expected: Expected, pool: PoolConfig, *, labelled: bool, block_samples: int
) -> tuple[Survey, list[ShardRow]]:
    """Survey all `.tar` files of the folder `url`, a task each; return their manifest rows, too.

    Raises InputError for no shards, a damaged one, keys that occur twice, unsafe keys and, by
    policy, unusable images. With the policy "skip" these stay where they are, and the stream will
    report and leave them out.
    """
    folder = open_storage(url)
    names = [file for file in folder.files() if file.endswith(".tar")]
    if not names:
        raise InputError(f"{url} holds no .tar files; check the path")
    arguments = (folder, names, expected, labelled, block_samples)
    parts = survey_tasks(len(names), None, Indexed, TarIndexer, arguments, expected, pool)
    _check_keys(names, parts)
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
        shape: Shape | None,
    ) -> None:
        """Without `shape`, the first usable image of a tar decides it."""
        self._folder, self._names, self._expected = folder, names, expected
        self._labelled, self._block_samples, self._shape = labelled, block_samples, shape

    def __call__(self, task: int) -> Indexed:
        """The whole file is read once, block by block."""
        name = self._names[task]
        shard = self._folder / name
        surveyor = Surveyor(self._expected.policy, self._expected.classes, self._shape)
        found = Indexed(surveyor.survey)
        offsets = sample_offsets(shard)
        size = shard.size() or 0
        digest = hashlib.sha256(shard.read_range(0, offsets[0]))
        counts: Counter[int] = Counter()
        blocks = []
        for begin, end, samples in cut_blocks(offsets, self._block_samples):
            data = shard.read_range(begin, end - begin)
            digest.update(data)
            blocks.append(Block(begin, end - begin, samples, zlib.crc32(data)))
            for record in parse_block(data, blocks[-1], name):
                label = self._survey(record, surveyor, found.keys)
                if label is not None:
                    counts[label] += 1
        digest.update(shard.read_range(offsets[-1], size - offsets[-1]))
        if blocks:
            labels = tuple(sorted(counts.items()))
            samples = len(offsets) - 1
            found.row = ShardRow(name, samples, size, digest.hexdigest(), labels, tuple(blocks))
        return found

    def _survey(
        self, record: Record | SampleError, surveyor: Surveyor, keys: list[str]
    ) -> int | None:
        """Check one sample; its label, if it is usable and has one."""
        if isinstance(record, SampleError):
            raise InputError(f"{record}; repack the shard") from record
        keys.append(record.place.partition("/")[2])
        label = None
        try:
            if self._labelled:
                label = decode_label(record.fields, surveyor.classes or _ANY_LABEL)
            image = image_field(record.fields)[1]
        except SampleError as error:
            surveyor.refuse(error, record.place)
            return None
        return label if surveyor.add(image, label, record.place) else None


def _check_keys(names: Sequence[str], parts: Sequence[Indexed]) -> None:
    seen: set[str] = set()
    for name, part in zip(names, parts, strict=True):
        for key in part.keys:
            if key in seen:
                raise InputError(f"{name}/{key}: the key {key} occurs twice; make keys unique")
            seen.add(key)
