"""What a sharded dataset says about itself: `manifest.parquet` and `dataset.json`.

The manifest has one row per shard and, inside each row, the shard's *blocks*: runs of consecutive
whole samples whose byte range is itself a readable piece of tar. `dataset.json` is written last,
and holds the manifest's SHA-256: a folder without it is not a dataset yet. Both may come from
elsewhere, so numbers that cannot be true are refused before anything is made as large as they say.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import Field, TypeAdapter, ValidationError

from pipeline.errors import InputError
from pipeline.parquet_file import parquet_bytes
from pipeline.storage import Location

FORMAT_VERSION = 1
MANIFEST = "manifest.parquet"
DATASET = "dataset.json"
MOST_CLASSES = 1_000_000
"""Labels above are taken for something else than classes: each class has a name and a count."""
_MOST_PIXELS = 2**26  # of an image, as in decoding
_LEAST_BYTES = 512  # of a sample: a tar header

_Natural = Annotated[int, Field(ge=0)]
_Positive = Annotated[int, Field(ge=1)]


class Block(NamedTuple):
    """A run of consecutive whole samples inside one shard."""

    offset: _Natural  # bytes from the start of the shard
    bytes: _Positive
    samples: _Positive
    crc32: _Natural  # of exactly those bytes


@dataclass(frozen=True)
class ShardRow:
    """One shard as the manifest records it."""

    shard: str  # file name, relative to `DatasetInfo.shards_at`
    samples: _Positive
    bytes: _Positive
    sha256: str
    label_counts: tuple[
        tuple[_Natural, _Natural], ...
    ]  # (label, samples), sorted; empty when unlabelled
    blocks: tuple[Block, ...]  # none in a shard that is no tar


@dataclass(frozen=True)
class DatasetInfo:
    """The contents of `dataset.json`.

    `samples` and `manifest_sha256` are filled in by `pipeline.data.writer.finish_dataset`.
    """

    split: str
    shape: tuple[_Positive, _Positive, _Positive]  # of an image: C, H, W
    classes: Annotated[int, Field(ge=1, le=MOST_CLASSES)] | None  # None when unlabelled
    class_names: tuple[str, ...] = ()
    levels: Annotated[int, Field(ge=2, le=256)] = 256
    encoding: str = "png"  # comma-separated file extensions of the images
    mean: tuple[float, ...] | None = None  # per channel, of pixel / 255
    std: tuple[float, ...] | None = None
    source: str = ""
    licence: str = ""
    recipe: str = ""  # SHA-256 of the configuration that made it
    indexed: bool = False  # the shards were there before and are not ours to delete
    shards_at: str = "."  # folder or URL of the shards; "." is this folder
    container: Literal["tar", "parquet"] = "tar"  # what a shard is; only tars can be streamed
    provenance: Mapping[str, str | int | float | None] = field(default_factory=dict)  # if generated
    samples: _Positive = 0
    manifest_sha256: str = ""
    gate: Literal["passed", "failed"] | None = None  # of a sample set, by jobs.gate
    format_version: int = FORMAT_VERSION


_BLOCK_TYPE = pa.struct(
    [("offset", pa.int64()), ("bytes", pa.int64()), ("samples", pa.int32()), ("crc32", pa.uint32())]
)
_SCHEMA = pa.schema(
    [
        ("shard", pa.string()),
        ("samples", pa.int64()),
        ("bytes", pa.int64()),
        ("sha256", pa.string()),
        ("label_counts", pa.map_(pa.int64(), pa.int64())),
        ("image_shape", pa.list_(pa.int32())),
        ("blocks", pa.list_(_BLOCK_TYPE)),
    ]
)


_ROWS = TypeAdapter(tuple[ShardRow, ...])


def manifest_bytes(rows: Iterable[ShardRow], shape: Sequence[int]) -> bytes:
    """The manifest as the bytes of a Parquet file."""
    records = [
        {
            **{f.name: getattr(row, f.name) for f in fields(row)},
            "image_shape": list(shape),
            "blocks": [block._asdict() for block in row.blocks],
        }
        for row in rows
    ]
    return parquet_bytes(pa.Table.from_pylist(records, schema=_SCHEMA))


def read_manifest(folder: Location, info: DatasetInfo) -> tuple[ShardRow, ...]:
    """The rows of `folder`'s manifest.

    Raises InputError for a missing manifest, one that is not the one `info` describes, and one
    that cannot be true.
    """
    where = folder / MANIFEST
    try:
        data = where.read_bytes()
    except FileNotFoundError as error:
        raise InputError(f"{where} is missing; run jobs.prepare again") from error
    if hashlib.sha256(data).hexdigest() != info.manifest_sha256:
        raise InputError(
            f"{where} is not the manifest that {DATASET} was written for (SHA-256 differs); "
            "restore it or run jobs.prepare again with overwrite=true"
        )
    try:
        table = pq.read_table(pa.BufferReader(data), schema=_SCHEMA)
        rows = _ROWS.validate_python(table.drop_columns("image_shape").to_pylist())
    except (pa.ArrowException, ValidationError) as error:
        raise InputError(f"{where} is damaged ({error}); run jobs.prepare again") from error
    for row in rows:
        if why := _impossible(row, info):
            raise InputError(f"{where}: shard {row.shard!r} {why}; run jobs.prepare again")
    return rows


def _impossible(row: ShardRow, info: DatasetInfo) -> str | None:
    """What cannot be true of a shard; None for nothing."""
    blocks, labels = row.blocks, row.label_counts
    if blocks and sum(block.samples for block in blocks) != row.samples:
        return f"has {row.samples} samples, and its blocks have others"
    if any(block.offset + block.bytes > row.bytes for block in blocks):
        return f"has a block beyond its end at byte {row.bytes}"
    if any(block.samples * _LEAST_BYTES > block.bytes for block in blocks):
        return "has a block of more samples than its bytes can hold"
    if labels and max(label for label, _ in labels) >= (info.classes or MOST_CLASSES):
        return f"has labels above its {info.classes} classes"
    if sum(count for _, count in labels) > row.samples:
        return f"has more labels than its {row.samples} samples"
    return None


def info_bytes(info: DatasetInfo) -> bytes:
    """`dataset.json` as bytes."""
    return (json.dumps(asdict(info), indent=1, ensure_ascii=False) + "\n").encode()


def read_info(folder: Location) -> DatasetInfo:
    """The dataset description in `folder`.

    Raises InputError for a folder without `dataset.json`, or one of another format version.
    """
    where = folder / DATASET
    try:
        content = json.loads(where.read_bytes())
    except FileNotFoundError as error:
        raise InputError(_why_no_dataset(folder)) from error
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not JSON ({error}); run jobs.prepare again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{where} has format version {version!r}, this program reads {FORMAT_VERSION}; "
            "prepare the data again with this version"
        )
    try:
        info = TypeAdapter(DatasetInfo).validate_python(content)
    except ValidationError as error:
        raise InputError(f"{where} is damaged ({error}); run jobs.prepare again") from error
    names, (channels, height, width) = len(info.class_names), info.shape
    if height * width > _MOST_PIXELS or channels > 3 or (names and names != info.classes):
        raise InputError(
            f"{where} is damaged: images {info.shape}, {info.classes} classes, {names} names; "
            "run jobs.prepare again"
        )
    return info


def _why_no_dataset(folder: Location) -> str:
    """Message for a folder that holds no finished dataset."""
    if not folder.is_folder():
        made = "jobs.prepare (for samples jobs.sample)"
        return f"{folder} does not exist; check the path, or run {made}"
    if any(name.endswith(".tar") for name in folder.files()):
        return (
            f"{folder} has tar shards but no {DATASET}; index them with jobs.prepare "
            "(kind: webdataset), which writes the manifest and leaves the shards as they are"
        )
    splits = [n for n in folder.folders() if (folder / n / DATASET).size() is not None]
    hint = f"; its splits are {', '.join(splits)}: name one of them" if splits else ""
    return f"{folder} has no {DATASET}{hint or '; run jobs.prepare'}"
