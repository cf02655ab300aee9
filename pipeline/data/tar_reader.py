"""Tar bytes to samples, in plain mode: no decompression, no extraction, no unpickling.

A tar reader that meets damage stops without an error and loses what follows. So every piece is
checked against what the manifest promises (length, CRC-32, number of samples) before it is used,
and an archive is accepted for indexing only if it ends with the end-of-archive mark.
"""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from typing import Any

from webdataset.tariterators import base_plus_ext, group_by_keys

from pipeline.data.checksum import crc32
from pipeline.data.decode import Defect, SampleError, safe_key
from pipeline.data.manifest import Block
from pipeline.data.tar_fast import Record, plain_samples
from pipeline.errors import InputError
from pipeline.storage import Location

Entry = Record | SampleError

_READ_AHEAD = 8 * 2**20  # bytes: an object store would answer a request for each header


def parse_block(data: bytes, block: Block, shard: str) -> list[Entry]:
    """The samples of one block, in order; always `block.samples` entries.

    Bytes that are not those which were indexed are not parsed: each of their samples becomes a
    SampleError, and so does a sample whose key could leave its folder.
    """
    place = f"{shard}@{block.offset}"
    if len(data) != block.bytes:
        return damaged(block, f"{len(data)} of {block.bytes} bytes are there", place)
    if crc32(data) != block.crc32:
        return damaged(block, "CRC-32 differs from the manifest's", place)
    try:
        records: list[Entry] = [*(plain_samples(data, shard) or _any_samples(data, shard))]
    except (tarfile.TarError, ValueError) as error:
        return damaged(block, str(error), place)
    if len(records) != block.samples:
        return damaged(block, f"{len(records)} samples, the manifest has {block.samples}", place)
    return records


def damaged(
    block: Block, detail: str, place: str, defect: Defect = Defect.DAMAGED_BLOCK
) -> list[Entry]:
    """A hole for every sample of `block`."""
    return [SampleError(defect, detail, place)] * block.samples


def sample_offsets(shard: Location) -> list[int]:
    """Where each sample of a tar begins, and where the last one ends.

    Raises InputError for a file that is not a whole, uncompressed tar.
    """
    starts: list[int] = []
    last_key, end, size = None, 0, shard.size() or 0
    try:
        with (
            shard.filesystem.open_input_file(shard.path) as file,
            io.BufferedReader(file, _READ_AHEAD) as buffered,
            tarfile.open(fileobj=buffered, mode="r:") as archive,
        ):
            for member in archive:
                key = base_plus_ext(member.name)[0] if _is_plain(member) else None
                if key is not None and key != last_key:
                    starts.append(member.offset)
                    last_key = key
                end = member.offset_data + -(-member.size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
        mark = shard.read_range(end, tarfile.BLOCKSIZE)
    except (tarfile.TarError, OSError) as error:
        raise InputError(f"{shard} is not a plain tar ({error}); replace or remove it") from error
    if mark != bytes(tarfile.BLOCKSIZE):
        raise InputError(
            f"{shard} is truncated or damaged at byte {end} of {size}; replace or remove it"
        )
    return [*starts, end]


def _any_samples(data: bytes, shard: str) -> list[Entry]:
    """What any tar fragment holds. Raises TarError or ValueError for damage."""
    return [_record(group, shard) for group in group_by_keys(_members(data, shard))]


def _members(data: bytes, shard: str) -> Iterator[dict[str, Any]]:
    """The regular files of an uncompressed tar fragment, as webdataset's grouping expects them."""
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        for member in archive:
            if _is_plain(member):
                content = data[member.offset_data : member.offset_data + member.size]
                yield {"fname": member.name, "data": content, "__url__": shard}


def _is_plain(member: tarfile.TarInfo) -> bool:
    return member.isreg() and not member.issparse()


def _record(group: dict[str, Any], shard: str) -> Entry:
    key = group["__key__"]
    if not safe_key(key):
        return SampleError(Defect.UNSAFE_KEY, "not a plain relative name", f"{shard}/{key!r}")
    fields = {name: value for name, value in group.items() if not name.startswith("__")}
    return Record(f"{shard}/{key}", fields)
