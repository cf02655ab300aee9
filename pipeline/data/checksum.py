"""CRC-32 (ISO 3309, as in zlib): libdeflate's, several times as quick, where imagecodecs has it."""

from __future__ import annotations

import zlib

from pipeline.data.decode_fast import imagecodecs


def crc32(data: bytes) -> int:
    """The checksum of `data`."""
    return int(imagecodecs.deflate_crc32(data)) if imagecodecs else zlib.crc32(data)
