"""The usual pictures by quicker decoders, where the extra `fast` is installed.

simplejpeg (libjpeg-turbo) decodes JPEG; imagecodecs (libspng, libwebp) PNG and WebP. Pillow has the
last word: whatever is not an 8-bit grey or RGB picture of the plainest kind, or makes a decoder
here complain, is answered with None and goes to `decode_image`, which accepts or refuses it by
name. Lossless pictures are the same bytes either way. JPEGs are, where both use libjpeg-turbo's
accurate integer transform and smooth upsampling, as here and in Pillow's own wheels.
"""

from __future__ import annotations

import struct
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np
from numpy.typing import NDArray

simplejpeg: Any = import_module("simplejpeg") if find_spec("simplejpeg") else None
imagecodecs: Any = import_module("imagecodecs") if find_spec("imagecodecs") else None

Pixels = NDArray[np.uint8]
Size = tuple[int, int, int]  # H, W, C

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"
_PNG_HEADER = struct.Struct(">IIBB")  # width, height, depth, colour type
_PNG_CHANNELS = {0: 1, 2: 3}  # by colour type: grey, RGB
_JPEG_CHANNELS = {"Gray": 1, "YCbCr": 3}
_LOSSLESS, _LOSSY = b"VP8L", b"VP8 "  # the kinds of WebP without transparency or animation


def decode_fast(
    data: bytes, out: Pixels | None = None, *, max_pixels: int = 2**26
) -> Pixels | None:
    """Pixels (H,W,C) uint8 of a plain picture, else None.

    With `out`, a contiguous (H,W,C), only a picture of that size is decoded, and into it; it may
    hold anything where the answer is None.
    """
    try:
        size = _size(data)
        if size is None or size[0] * size[1] > max_pixels:
            return None
        if out is None:
            out = np.empty(size, np.uint8)
        if out.shape != size:
            return None
        _decode(data, out)
    except (ValueError, RuntimeError, struct.error):
        return None
    return out


def _size(data: bytes) -> Size | None:
    """What the header says; None for a picture that is not plain, or has no decoder here."""
    if data.startswith(_JPEG):
        return _jpeg_size(data) if simplejpeg else None
    if imagecodecs is None:
        return None
    return _png_size(data) if data.startswith(_PNG) else _webp_size(data)


def _decode(data: bytes, out: Pixels) -> None:
    grey = out.shape[2] == 1
    if data.startswith(_JPEG):
        simplejpeg.decode_jpeg(data, "GRAY" if grey else "RGB", buffer=out)
    elif data.startswith(_PNG):
        imagecodecs.spng_decode(data, out=out[:, :, 0] if grey else out)
    else:
        imagecodecs.webp_decode(data, out=out)


def _jpeg_size(data: bytes) -> Size | None:
    height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    channels = _JPEG_CHANNELS.get(colours)
    return (height, width, channels) if channels else None


def _png_size(data: bytes) -> Size | None:
    """Eight bits, grey or RGB, no single transparent colour, not animated."""
    width, height, depth, colours = _PNG_HEADER.unpack_from(data, len(_PNG))
    channels = _PNG_CHANNELS.get(colours) if depth == 8 else None
    before_pixels = data[len(_PNG) : data.find(b"IDAT")]
    if channels is None or b"acTL" in before_pixels or b"tRNS" in before_pixels:
        return None
    return height, width, channels


def _webp_size(data: bytes) -> Size | None:
    """Not the extended container; lossless ones say by a bit whether there is transparency."""
    kind = data[12:16] if data[8:12] == b"WEBP" else b""
    if kind == _LOSSLESS:
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
        return None if bits >> 28 & 1 else (height, width, 3)
    if kind == _LOSSY:
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF, 3
    return None
