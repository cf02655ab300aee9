"""Drawn images to the bytes of a shard: a tar or a Parquet file, the same bytes each time."""

import hashlib
from collections.abc import Sequence

import pyarrow as pa
from torch import Tensor

from pipeline.config.sample import SampleConfig
from pipeline.data.decode import encode_png, encode_webp
from pipeline.data.writer import EncodedShard, ShardSample, encode_shard, shard_row
from pipeline.parquet_file import parquet_bytes
from pipeline.sampling.rows import PlannedRows
from vdm_core.labels import NO_LABEL

SUFFIX = {"webdataset": "tar", "parquet": "parquet"}
_SCHEMA = pa.schema(
    [
        ("key", pa.string()),
        ("id", pa.int64()),
        ("label", pa.int64()),  # null without classes
        ("seed", pa.int64()),
        ("guidance_scale", pa.float64()),
        ("image", pa.binary()),
    ]
)


def encode_images(
    rows: PlannedRows, images: Tensor, config: SampleConfig
) -> tuple[list[ShardSample], list[str]]:
    """The samples of some rows, from their images (N,C,H,W) uint8; and the pixels' SHA-256."""
    encode = encode_png if config.encoding == "png" else encode_webp
    pixels = images.cpu().numpy()
    columns = (column.tolist() for column in rows)
    samples = [
        ShardSample(
            key=f"{number:09d}",
            image=encode(image),
            extension=config.encoding,
            label=None if label == NO_LABEL else label,
            extra={"id": number, "seed": seed, "guidance_scale": scale},
        )
        for image, number, label, seed, scale in zip(pixels, *columns, strict=True)
    ]
    return samples, [hashlib.sha256(image.tobytes()).hexdigest() for image in pixels]


def encode_samples(name: str, samples: Sequence[ShardSample], config: SampleConfig) -> EncodedShard:
    """The shard `name`, in the form that is asked for."""
    if config.format == "webdataset":
        return encode_shard(name, samples)
    records = [
        {"key": s.key, "label": s.label, "image": s.image, **(s.extra or {})} for s in samples
    ]
    table = pa.Table.from_pylist(records, schema=_SCHEMA)
    data = parquet_bytes(table, compression="none")
    extents = [(row, len(sample.image)) for row, sample in enumerate(samples)]
    return EncodedShard(shard_row(name, samples, data, ()), data, extents)
