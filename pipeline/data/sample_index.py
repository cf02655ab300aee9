"""Every sample's key and label, for choices that need them: `samples.parquet` beside the manifest.

The manifest itself grows with blocks, not with samples. The index is made by one scan of the shards
when a choice first needs it, and is kept where the folder can be written. It costs about 16 bytes
a sample in memory and names the manifest it was made from.
"""

from __future__ import annotations

import hashlib
import logging
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.data.dataset import ShardedDataset
from pipeline.data.decode import LOST, SampleError
from pipeline.errors import InputError
from pipeline.parquet_file import parquet_bytes
from pipeline.storage import Location

SAMPLES = "samples.parquet"
_MANIFEST = b"manifest_sha256"
_log = logging.getLogger(__name__)


class SampleIndex(NamedTuple):
    """One row a sample, in manifest order."""

    key_hashes: NDArray[np.uint64]
    labels: NDArray[np.int64]  # -1 where there is none


def sample_index(dataset: ShardedDataset) -> SampleIndex:
    """The index beside `dataset`'s manifest; made and, where possible, kept if it is not there.

    Raises InputError for a shard that cannot be read whole: a choice among what is left would
    change when the shard is repaired.
    """
    where = dataset.folder / SAMPLES
    found = _read(where, dataset.info.manifest_sha256)
    if found is not None:
        return found
    _log.info("reading the keys and labels of %d samples in %s", dataset.info.samples, where)
    index = _scan(dataset)
    try:
        where.write_bytes(_encoded(index, dataset.info.manifest_sha256))
    except InputError as error:
        _log.warning("the scan will be repeated next time: %s", error)
    return index


def _scan(dataset: ShardedDataset) -> SampleIndex:
    hashes: list[int] = []
    labels: list[int] = []
    for number, block in enumerate(dataset.blocks):
        (samples,) = dataset.read_blocks([number])
        labels += samples.labels
        for picture, place in zip(samples.pictures, samples.places, strict=True):
            if isinstance(picture, SampleError) and picture.defect in LOST:
                raise InputError(f"{picture}; repair the shard before choosing among its samples")
            hashes.append(key_hash(place.removeprefix(f"{block.shard}/")))
    return SampleIndex(np.array(hashes, np.uint64), np.array(labels, np.int64))


def key_hash(key: str) -> int:
    """The first 8 bytes of the SHA-256 of a sample's key, which goes without its shard."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little")


def _encoded(index: SampleIndex, manifest: str) -> bytes:
    table = pa.table({"key_hash": index.key_hashes, "label": index.labels})
    return parquet_bytes(table.replace_schema_metadata({_MANIFEST: manifest}))


def _read(where: Location, manifest: str) -> SampleIndex | None:
    """The stored index, unless there is none for this manifest."""
    if where.size() is None:
        return None
    table = pq.read_table(pa.BufferReader(where.read_bytes()))
    if (table.schema.metadata or {}).get(_MANIFEST) != manifest.encode():
        return None
    return SampleIndex(table["key_hash"].to_numpy(), table["label"].to_numpy())
