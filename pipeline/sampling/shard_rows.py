"""What a finished shard says of itself: `rows/<shard>.parquet`, written after the shard is whole.

Its columns are the shard's lines of the sample manifest, its metadata the shard's line of the
dataset manifest and how it was made. So a restarted job knows what is done, and the manifests are
put together without a look into any shard.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.data.manifest import Block, ShardRow
from pipeline.errors import InputError
from pipeline.parquet_file import parquet_bytes
from pipeline.sampling.rows import PlannedRows
from pipeline.storage import Location

_KEY = b"vdm.shard"
SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("class", pa.int64()),  # -1 for none
        ("seed", pa.int64()),
        ("guidance_scale", pa.float64()),
        ("shard", pa.dictionary(pa.int32(), pa.string())),
        ("offset", pa.int64()),  # in a tar bytes, in Parquet rows
        ("bytes", pa.int64()),  # from offset on; in Parquet those of the encoded image
        ("sha256", pa.string()),  # of the pixels: (C,H,W) uint8, row by row
    ]
)


@dataclass(frozen=True)
class FinishedShard:
    """A shard that is done: its line of the manifest, of which plan it is, and how it was made."""

    row: ShardRow
    plan_sha256: str
    made_by: str  # code, torch and device
    seconds: float  # of one actor, from the first network call to the shard on storage


def sample_rows(
    rows: PlannedRows, shard: str, extents: Sequence[tuple[int, int]], digests: Sequence[str]
) -> pa.Table:
    """The lines of the sample manifest; `extents` are (offset, bytes) of each sample."""
    offsets, sizes = zip(*extents, strict=True)
    names = pa.DictionaryArray.from_arrays(pa.array([0] * len(rows.ids), pa.int32()), [shard])
    columns = [rows.ids, rows.labels, rows.seeds, rows.scales, names, offsets, sizes, digests]
    return pa.table([pa.array(c) for c in columns], schema=SCHEMA)


def finished_bytes(finished: FinishedShard, samples: pa.Table) -> bytes:
    """The file `rows/<shard>.parquet`."""
    metadata = {_KEY: json.dumps(asdict(finished)).encode()}
    return parquet_bytes(samples.replace_schema_metadata(metadata))


def read_finished(file: Location) -> FinishedShard:
    """How a shard was made, from the file's footer alone.

    Raises:
        InputError: the file cannot be read.
    """
    try:
        with file.filesystem.open_input_file(file.path) as handle:
            metadata = pq.ParquetFile(handle).schema_arrow.metadata
        fields: dict[str, Any] = json.loads(metadata[_KEY])
        return FinishedShard(**(fields | {"row": _shard_row(fields["row"])}))
    except (OSError, pa.ArrowException, KeyError, ValueError, TypeError) as error:
        raise InputError(f"{file} is damaged ({error}); delete it and run the job again") from None


def read_sample_rows(file: Location) -> pa.Table:
    """The lines of the sample manifest of one finished shard."""
    with file.filesystem.open_input_file(file.path) as handle:
        return pq.ParquetFile(handle).read().replace_schema_metadata(None)


def _shard_row(fields: dict[str, Any]) -> ShardRow:
    counts = tuple((int(label), int(count)) for label, count in fields.pop("label_counts"))
    blocks = tuple(Block(*block) for block in fields.pop("blocks"))
    return ShardRow(**fields, label_counts=counts, blocks=blocks)
