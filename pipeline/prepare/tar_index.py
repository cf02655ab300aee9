"""Manifest rows for tar shards that exist: every sample is read and checked, none is rewritten."""

from __future__ import annotations

import hashlib
import zlib
from collections import Counter

from pipeline.data.decode import SampleError, decode_label, image_field
from pipeline.data.manifest import Block, ShardRow
from pipeline.data.tar_reader import Record, parse_block, sample_offsets
from pipeline.data.writer import cut_blocks
from pipeline.errors import InputError
from pipeline.prepare.survey import Survey
from pipeline.progress import Progress
from pipeline.storage import Location, open_storage

_ANY_LABEL = 2**31


def index_tars(
    url: str, survey: Survey, *, labelled: bool, block_samples: int, split: str
) -> list[ShardRow]:
    """Read all `.tar` files of the folder `url` into `survey` and return their manifest rows.

    Raises InputError for no shards, a damaged one, keys that occur twice, unsafe keys and, by the
    survey's policy, unusable images. With the policy "skip" these stay where they are, and the
    stream will report and leave them out.
    """
    folder = open_storage(url)
    names = [file for file in folder.files() if file.endswith(".tar")]
    if not names:
        raise InputError(f"{url} holds no .tar files; check the path")
    keys: set[str] = set()
    progress = Progress(f"{split}: indexed", len(names), unit="shards")
    rows = []
    for file in names:
        rows.append(_index(folder, file, survey, labelled, block_samples, keys))
        progress.add()
    return [row for row in rows if row.samples]


def _index(
    folder: Location,
    file: str,
    survey: Survey,
    labelled: bool,
    block_samples: int,
    keys: set[str],
) -> ShardRow:
    """The row of one shard; the whole file is read once, block by block."""
    shard = folder / file
    offsets = sample_offsets(shard)
    size = shard.size() or 0
    digest = hashlib.sha256(shard.read_range(0, offsets[0]))
    counts: Counter[int] = Counter()
    blocks = []
    for begin, end, samples in cut_blocks(offsets, block_samples):
        data = shard.read_range(begin, end - begin)
        digest.update(data)
        blocks.append(Block(begin, end - begin, samples, zlib.crc32(data)))
        for record in parse_block(data, blocks[-1], file):
            label = _survey(record, survey, labelled, keys)
            if label is not None:
                counts[label] += 1
    digest.update(shard.read_range(offsets[-1], size - offsets[-1]))
    return ShardRow(
        shard=file,
        samples=len(offsets) - 1,
        bytes=size,
        sha256=digest.hexdigest(),
        label_counts=tuple(sorted(counts.items())),
        blocks=tuple(blocks),
    )


def _survey(
    record: Record | SampleError, survey: Survey, labelled: bool, keys: set[str]
) -> int | None:
    """Check one sample; its label, if it is usable and has one."""
    if isinstance(record, SampleError):
        raise InputError(f"{record}; repack the shard") from record
    key = record.place.partition("/")[2]
    if key in keys:
        raise InputError(f"{record.place}: the key {key} occurs twice; make keys unique")
    keys.add(key)
    try:
        label = decode_label(record.fields, survey.classes or _ANY_LABEL) if labelled else None
        image = image_field(record.fields)[1]
    except SampleError as error:
        if survey.policy.on_bad_image == "raise":
            raise InputError(
                f"{error.at(record.place)}; repair it, or set on_bad_image: skip"
            ) from error
        survey.skipped.append(str(error.at(record.place)))
        return None
    return label if survey.add(image, label, record.place) else None
