"""IDX arrays (the format of MNIST and Fashion-MNIST), plain or gzipped. A chunk is one image.

An IDX file is two zero bytes, a type code (8: unsigned byte), the number of dimensions, each
dimension as a big-endian 32-bit integer, and then the values.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import math
import struct
import zlib

import numpy as np

from pipeline.data.decode import Pixels
from pipeline.errors import InputError
from pipeline.prepare.sources.base import SourceSample
from pipeline.storage import open_storage

_GZIP = b"\x1f\x8b"
_UNSIGNED_BYTE = 8
_MOST_EXPANSION = 1100  # of gzip: DEFLATE makes at most 1,032 bytes of one


class IdxImages:
    """One-channel images (N,H,W) and, optionally, labels (N,).

    Raises InputError for a missing or malformed file, or counts that differ.
    """

    class_names = None

    def __init__(self, images: str, labels: str | None, limit: int | None) -> None:
        """Read the arrays into memory."""
        pixels = read_idx(images, dimensions=3)
        numbers = read_idx(labels, dimensions=1) if labels is not None else None
        if numbers is not None and len(numbers) != len(pixels):
            raise InputError(
                f"{images} has {len(pixels)} images and {labels} {len(numbers)} labels; "
                "give files that belong together"
            )
        if not len(pixels):
            raise InputError(f"{images} holds no images")
        self._place = images
        self._pixels = pixels[:limit]
        self._labels = numbers
        self.labelled = numbers is not None
        self.samples = self.chunks = len(self._pixels)

    def digest(self) -> str:
        """Of all pixels and labels."""
        digest = hashlib.sha256(self._pixels.tobytes())
        if self._labels is not None:
            digest.update(self._labels.tobytes())
        return digest.hexdigest()

    def read(self, chunk: int) -> list[SourceSample]:
        """The one image of the chunk."""
        label = int(self._labels[chunk]) if self._labels is not None else None
        place = f"{self._place} image {chunk}"
        return [SourceSample(f"{chunk:08d}", place, self._pixels[chunk][None], label)]


def read_idx(url: str, *, dimensions: int) -> Pixels:
    """The array of unsigned bytes in an IDX file. Raises InputError if it is not one.

    Of a compressed file no more is expanded than its header announces.
    """
    try:
        stored = open_storage(url).read_bytes()
        file = io.BytesIO(stored)
        with gzip.open(file) if stored.startswith(_GZIP) else file as data:
            shape = _shape(url, data.read(4 + 4 * dimensions), dimensions)
            most = min(math.prod(shape), _MOST_EXPANSION * len(stored))
            values = data.read(most + 1)
    except FileNotFoundError as error:
        raise InputError(f"{url} does not exist; check the path") from error
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"cannot read {url}: {error}; the file may be cut short") from error
    if len(values) != math.prod(shape):
        more = " or more" if len(values) > most else ""
        raise InputError(
            f"{url} has {len(values)}{more} values, its header says {shape}; it is damaged"
        )
    return np.frombuffer(values, dtype=np.uint8).reshape(shape)


def _shape(url: str, header: bytes, dimensions: int) -> tuple[int, ...]:
    if header[:4] != bytes([0, 0, _UNSIGNED_BYTE, dimensions]) or len(header) < 4 + 4 * dimensions:
        raise InputError(
            f"{url} is not an IDX file of unsigned bytes with {dimensions} dimension(s) "
            f"(its first bytes are {header[:4].hex()}, not 000008{dimensions:02x}); "
            "are images and labels exchanged?"
        )
    shape = struct.unpack(f">{dimensions}I", header[4:])
    if 0 in shape[1:]:
        raise InputError(f"{url} holds images of no pixels: its header says {shape}")
    return shape
