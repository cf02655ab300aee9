"""What a sharded dataset says about itself: `manifest.parquet` and `dataset.json`.

The manifest has one row per shard and, inside each row, the shard's *blocks*: runs of consecutive
whole samples whose byte range is itself a readable piece of tar. `dataset.json` is written last,
and holds the manifest's SHA-256: a folder without it is not a dataset yet.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter, ValidationError

from pipeline.errors import InputError
from pipeline.parquet_file import parquet_bytes
from pipeline.storage import Location

FORMAT_VERSION = 1
MANIFEST = "manifest.parquet"
DATASET = "dataset.json"


class Block(NamedTuple):
    """A run of consecutive whole samples inside one shard."""

    offset: int  # bytes from the start of the shard
    bytes: int
    samples: int
    crc32: int  # of exactly those bytes


@dataclass(frozen=True)
class ShardRow:
    """One shard as the manifest records it."""

    shard: str  # file name, relative to `DatasetInfo.shards_at`
    samples: int
    bytes: int
    sha256: str
    label_counts: tuple[tuple[int, int], ...]  # (label, samples), sorted; empty when unlabelled
    blocks: tuple[Block, ...]  # none in a shard that is no tar


@dataclass(frozen=True)
class DatasetInfo:
    """The contents of `dataset.json`.

    `samples` and `manifest_sha256` are filled in by `pipeline.data.writer.finish_dataset`.
    """

    split: str
    shape: tuple[int, int, int]  # of an image: C, H, W
    classes: int | None  # None when unlabelled
    class_names: tuple[str, ...] = ()
    levels: int = 256
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
    samples: int = 0
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

    Raises InputError for a missing manifest, or one that is not the one `info` describes.
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
    rows = pq.read_table(pa.BufferReader(data), schema=_SCHEMA).to_pylist()
    for row in rows:
        del row["image_shape"]
        row["label_counts"] = tuple(row["label_counts"])
        row["blocks"] = tuple(Block(**block) for block in row["blocks"])
    return tuple(ShardRow(**row) for row in rows)


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
    except ValueError as error:
        raise InputError(f"{where} is not JSON ({error}); run jobs.prepare again") from error
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(
            f"{where} has format version {version!r}, this program reads {FORMAT_VERSION}; "
            "prepare the data again with this version"
        )
    try:
        return TypeAdapter(DatasetInfo).validate_python(content)
    except ValidationError as error:
        raise InputError(f"{where} is damaged ({error}); run jobs.prepare again") from error


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
