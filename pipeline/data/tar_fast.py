"""Plain tar bytes to samples by one look at all headers, for pieces in which nothing is unusual.

A plain header is 512 bytes with its fields at fixed places (POSIX.1-1988, "ustar"), so NumPy reads
those of a whole block at once. Whatever is not plain (long names, pax records, links, folders,
sparse files, names that are no samples or could leave their folder, damage) is left to the
complete reader: the answer is then None, and nothing is guessed.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_RECORD = 512
_HEADER = np.dtype(
    {
        "names": ["name", "size", "checksum", "kind", "magic", "prefix"],
        "formats": ["S100", ("u1", 12), ("u1", 8), "u1", "<u4", "u1"],
        "offsets": [0, 124, 148, 156, 257, 345],
        "itemsize": _RECORD,
    }
)
_USTAR = int.from_bytes(b"usta", "little")
_REGULAR = ord("0")
_SPACES = 8 * ord(" ")  # the checksum's own field counts as blanks
_MEMBER = re.compile(r"^((?:.*/)?[^./\n]+)\.([^/\n]*)$", re.MULTILINE)
_UNSAFE = re.compile(r"(?:^|/)\.{0,2}/|\\|\.__", re.MULTILINE)


class Record(NamedTuple):
    """One sample as it lies in its shard: encoded."""

    place: str  # "shard/key"
    fields: dict[str, bytes]  # lower-case extension -> bytes


class Members(NamedTuple):
    """What a tar holds, in columns; the key and the extension make the name."""

    keys: tuple[str, ...]
    extensions: tuple[str, ...]
    begins: list[int]  # of the content
    ends: list[int]


def plain_samples(data: bytes, shard: str) -> list[Record] | None:
    """The samples of a tar fragment, in order; None where the complete reader has to look."""
    members = plain_members(data)
    if members is None:
        return None
    records: list[Record] = []
    fields: dict[str, bytes] = {}
    last = None
    for key, extension, begin, end in zip(*members, strict=True):
        if key != last:
            fields = {}
            records.append(Record(f"{shard}/{key}", fields))
            last = key
        extension = extension.lower()
        if extension in fields:
            return None
        fields[extension] = data[begin:end]
    return records


def plain_members(data: bytes) -> Members | None:
    """The members of a tar fragment, if all are plain regular files."""
    if not data or len(data) % _RECORD:
        return None
    at = np.flatnonzero(np.frombuffer(data, _HEADER)["magic"] == _USTAR)
    raw = np.frombuffer(data, np.uint8).reshape(-1, _RECORD)[at]
    headers = raw.view(_HEADER)[:, 0]
    sizes = _octal(headers["size"][:, :11])
    if sizes is None or not _is_chain(at, sizes, len(data) // _RECORD):
        return None
    if (headers["kind"] != _REGULAR).any() or headers["prefix"].any():
        return None
    if not _checksums_agree(raw, headers["checksum"]):
        return None
    names = _names(headers["name"])
    if names is None:
        return None
    keys, extensions = zip(*names, strict=True)
    begins = (at + 1) * _RECORD
    ends = begins + sizes
    return Members(keys, extensions, begins.tolist(), ends.tolist())


def _is_chain(at: NDArray[np.int64], sizes: NDArray[np.int64], records: int) -> bool:
    """Whether each member begins where the one before ends, from the first byte to the last."""
    following = at + 1 - (-sizes // _RECORD)
    return bool(
        len(at)
        and at[0] == 0
        and following[-1] == records
        and np.array_equal(following[:-1], at[1:])
    )


def _checksums_agree(headers: NDArray[np.uint8], stored: NDArray[np.uint8]) -> bool:
    expected = _octal(stored[:, :6])
    sums = headers.sum(1, dtype=np.uint32) - stored.sum(1, dtype=np.uint32) + _SPACES
    return expected is not None and np.array_equal(sums, expected)


def _octal(digits: NDArray[np.uint8]) -> NDArray[np.int64] | None:
    """Numbers from rows of octal digits; None if anything else stands there."""
    values = digits.astype(np.int64) - ord("0")
    if ((values < 0) | (values > 7)).any():
        return None
    return values @ (8 ** np.arange(digits.shape[1] - 1, -1, -1))


def _names(names: NDArray[np.bytes_]) -> list[tuple[str, str]] | None:
    """(key, extension) of each name; None unless every one is a harmless name of a sample."""
    try:
        text = b"\n".join(names.tolist()).decode()
    except UnicodeDecodeError:
        return None
    if text.count("\n") != len(names) - 1 or not text.replace("\n", "").isprintable():
        return None
    found = _MEMBER.findall(text)
    risky = "/" in text or "\\" in text or ".__" in text
    return None if len(found) != len(names) or (risky and _UNSAFE.search(text)) else found
