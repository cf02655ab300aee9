"""Samples that are read but not decoded, in columns.

A shuffle window holds thousands of them. Bytes, strings and integers are nothing that the garbage
collector follows, and a column is read from end to end; an object for each sample would be neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from operator import eq
from typing import NamedTuple

from pipeline.data.checksum import crc32
from pipeline.data.decode import IMAGE_EXTENSIONS, SampleError, decode_label, image_field
from pipeline.data.manifest import Block
from pipeline.data.tar_fast import plain_members
from pipeline.data.tar_reader import Entry, parse_block

_NUMBERS = re.compile(rb"(?:[0-9]{1,18}\n?\|)*")


class Encoded(NamedTuple):
    """Some samples; the columns are equally long."""

    pictures: list[bytes | SampleError]  # or why the sample cannot be used
    labels: list[int]  # -1 where there is none, or none that can be read
    places: list[str]  # "shard/key"; of a lost block, where it begins


Sample = tuple[Encoded, int]  # that row


def gathered(samples: Sequence[Sample]) -> Encoded:
    """The given samples in the given order."""
    return Encoded(
        [block.pictures[row] for block, row in samples],
        [block.labels[row] for block, row in samples],
        [block.places[row] for block, row in samples],
    )


def encoded_block(data: bytes, block: Block, shard: str, classes: int | None) -> Encoded:
    """The samples of one block, in order: always `block.samples`, with an error for each lost one.

    With `classes`, a sample needs a label, one of so many.
    """
    if len(data) == block.bytes and crc32(data) == block.crc32:
        samples = _usual(data, shard, classes)
        if samples is not None and len(samples.places) == block.samples:
            return samples
    return encoded(parse_block(data, block, shard), classes)


def encoded(entries: Iterable[Entry], classes: int | None) -> Encoded:
    """The one picture and, with `classes`, the label of each entry."""
    columns = Encoded([], [], [])
    for entry in entries:
        label = -1
        try:
            if isinstance(entry, SampleError):
                raise entry
            label = decode_label(entry.fields, classes) if classes else -1
            columns.pictures.append(image_field(entry.fields)[1])
        except SampleError as error:
            columns.pictures.append(error if error.place else error.at(entry.place))
        columns.labels.append(label)
        columns.places.append(entry.place)
    return columns


def _usual(data: bytes, shard: str, classes: int | None) -> Encoded | None:
    """The samples of a block in which all have the same few fields; None for anything else."""
    members = plain_members(data)
    if members is None:
        return None
    keys, extensions, begins, ends = members
    width = next((i for i, key in enumerate(keys) if key != keys[0]), len(keys))
    own, fields = keys[::width], extensions[:width]
    names = [name.lower() for name in fields]
    images = [i for i, name in enumerate(names) if name in IMAGE_EXTENSIONS]
    if (
        extensions != fields * len(own)
        or any(keys[i::width] != own for i in range(1, width))
        or any(map(eq, own, own[1:]))
        or len(set(names)) < width
        or len(images) != 1
    ):
        return None
    spans = zip(begins[images[0] :: width], ends[images[0] :: width], strict=True)
    pictures: list[bytes | SampleError] = [data[begin:end] for begin, end in spans]
    labels: list[int] | None = [-1] * len(own)
    if classes:
        at = names.index("cls") if "cls" in names else len(extensions)
        spans = zip(begins[at::width], ends[at::width], strict=True)
        labels = _labels([data[begin:end] for begin, end in spans], classes)
    return Encoded(pictures, labels, [f"{shard}/{key}" for key in own]) if labels else None


def _labels(texts: Sequence[bytes], classes: int) -> list[int] | None:
    """The numbers that are written in `texts`, if that is what all are."""
    joined = b"".join(text + b"|" for text in texts)
    if not joined or not _NUMBERS.fullmatch(joined) or joined.count(b"|") != len(texts):
        return None
    labels = list(map(int, texts))
    return labels if max(labels) < classes else None
