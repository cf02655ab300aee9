"""Bytes to pixels and labels, and pixels to bytes. Nothing is ever unpickled or executed.

Accepted images are 8-bit "L" (one channel) and "RGB" (three) pictures in PNG, JPEG or WebP. The
header is checked before any pixel is decoded, so a decompression bomb costs nothing.
"""

from __future__ import annotations

import io
import json
import re
import struct
import zlib
from collections.abc import Mapping
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

Pixels = NDArray[np.uint8]
Shape = tuple[int, int, int]  # C, H, W

IMAGE_EXTENSIONS = ("png", "jpg", "jpeg", "webp")
FORMATS = ("PNG", "JPEG", "WEBP")
CHANNELS = {"L": 1, "RGB": 3}

# What Pillow raises on bytes that are not a well-formed picture.
_UNREADABLE = (
    OSError,
    SyntaxError,
    ValueError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)
_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_PNG_DEPTH = 24  # offset of IHDR's bit depth
_INTEGER = re.compile(rb"-?[0-9]{1,18}\s*")


class Defect(StrEnum):
    """What can be wrong with a sample; the counts in reports are by these."""

    UNREADABLE_SHARD = "unreadable shard"
    DAMAGED_BLOCK = "damaged block"
    UNSAFE_KEY = "unsafe key"
    NO_IMAGE = "no image"
    BAD_IMAGE = "bad image"
    WRONG_SHAPE = "wrong shape"
    BAD_LABEL = "bad label"


LOST = frozenset({Defect.UNREADABLE_SHARD, Defect.DAMAGED_BLOCK, Defect.UNSAFE_KEY})
"""The defects of samples of which not even the key is known."""


class SampleError(Exception):
    """One sample cannot be used: which `defect`, where (`place`) and what exactly (`detail`)."""

    def __init__(self, defect: Defect, detail: str, place: str = "") -> None:
        """Describe the fault of the sample at `place` ("shard/key")."""
        super().__init__(f"{place}: {defect}: {detail}" if place else f"{defect}: {detail}")
        self.defect, self.detail, self.place = defect, detail, place

    def __reduce__(self) -> tuple[type[SampleError], tuple[Defect, str, str]]:
        """Travel between processes."""
        return SampleError, (self.defect, self.detail, self.place)

    def at(self, place: str) -> SampleError:
        """The same fault, named with its place."""
        return SampleError(self.defect, self.detail, place)


def decode_image(data: bytes, shape: Shape | None = None, *, max_pixels: int = 2**26) -> Pixels:
    """Pixels (C,H,W) uint8 of an encoded picture.

    With `shape`, a picture of another shape is refused before it is decoded. Raises SampleError.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            found = _shape(picture, data)
            if shape is not None and found != shape:
                raise SampleError(Defect.WRONG_SHAPE, f"{found}, the dataset has {shape}")
            if found[1] * found[2] > max_pixels:
                raise SampleError(Defect.WRONG_SHAPE, f"{found} is over {max_pixels} pixels")
            return _channels_first(np.asarray(picture))
    except _UNREADABLE as error:
        raise SampleError(Defect.BAD_IMAGE, _reason(error)) from error


def convert_image(data: bytes, mode: str, *, max_pixels: int = 2**26) -> Pixels:
    """Pixels (C,H,W) uint8 of any PNG, JPEG or WebP, converted to `mode` ("L" or "RGB").

    Transparency is dropped, 16-bit values keep their high byte, and of an animation the first
    frame is taken. Raises SampleError.
    """
    try:
        with Image.open(io.BytesIO(data), formats=FORMATS) as picture:
            if picture.width * picture.height > max_pixels:
                size = f"{picture.width}x{picture.height}"
                raise SampleError(Defect.WRONG_SHAPE, f"{size} is over {max_pixels} pixels")
            if picture.mode.startswith("I"):
                high = (np.asarray(picture).astype(np.uint32) >> 8).astype(np.uint8)
                return _channels_first(np.asarray(Image.fromarray(high).convert(mode)))
            return _channels_first(np.asarray(picture.convert(mode)))
    except _UNREADABLE as error:
        raise SampleError(Defect.BAD_IMAGE, _reason(error)) from error


def check_channels(pixels: Pixels, channels: int) -> Pixels:
    """`pixels` (H,W,C), if C is `channels`. Raises SampleError otherwise."""
    if pixels.shape[2] != channels:
        raise SampleError(
            Defect.WRONG_SHAPE, f"{pixels.shape[2]} channels, the dataset has {channels}"
        )
    return pixels


def extension_of(data: bytes) -> str:
    """File extension of an encoded picture that `decode_image` accepts, by its first bytes."""
    if data.startswith(_PNG_SIGNATURE):
        return "png"
    return "webp" if data[8:12] == b"WEBP" else "jpg"


def encode_png(image: Pixels) -> bytes:
    """`image` (C,H,W) uint8, C of 1 or 3, as PNG bytes: lossless, and the same bytes each time.

    Raises ValueError for another type or shape.
    """
    buffer = io.BytesIO()
    _picture(image, tuple(CHANNELS.values())).save(buffer, format="PNG")
    return buffer.getvalue()


def encode_webp(image: Pixels) -> bytes:
    """`image` (3,H,W) uint8 as lossless WebP bytes, the same each time; WebP knows no grey images.

    Raises ValueError for another type or shape.
    """
    buffer = io.BytesIO()
    _picture(image, (3,)).save(buffer, format="WEBP", lossless=True)
    return buffer.getvalue()


def _picture(image: Pixels, channels: tuple[int, ...]) -> Image.Image:
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[0] not in channels:
        wanted = "|".join(map(str, channels))
        raise ValueError(f"need uint8 ({wanted},H,W), got {image.dtype} {image.shape}")
    flat = image[0] if image.shape[0] == 1 else image.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(flat))


def decode_label(fields: Mapping[str, bytes], classes: int) -> int:
    """The label in `cls` (a decimal integer) or in `json`'s "label"; in [0, classes).

    Raises SampleError for a missing label, one that is no integer, or one out of range.
    """
    if "cls" in fields:
        if not _INTEGER.fullmatch(fields["cls"]):
            raise SampleError(Defect.BAD_LABEL, f"{fields['cls'][:40]!r} is not an integer")
        label = int(fields["cls"])
    else:
        label = _json_label(fields)
    if not 0 <= label < classes:
        raise SampleError(Defect.BAD_LABEL, f"{label} is outside 0..{classes - 1}")
    return label


def image_field(fields: Mapping[str, bytes]) -> tuple[str, bytes]:
    """Extension and bytes of the sample's one image. Raises SampleError for none or several."""
    found = [name for name in fields if name in IMAGE_EXTENSIONS]
    if len(found) != 1:
        raise SampleError(Defect.NO_IMAGE, f"image fields {found} among {sorted(fields)}")
    return found[0], fields[found[0]]


def safe_key(key: str) -> bool:
    """Whether `key` is a relative, printable path that stays inside its folder."""
    parts = key.split("/")
    return key.isprintable() and "\\" not in key and not {"", ".", ".."} & set(parts)


def _reason(error: BaseException) -> str:
    """Why an image cannot be read, in words that are the same each time."""
    if isinstance(error, UnidentifiedImageError):  # its text holds a memory address
        return "not a PNG, JPEG or WebP picture"
    return str(error) or type(error).__name__


def _shape(picture: Image.Image, data: bytes) -> Shape:
    if getattr(picture, "is_animated", False):
        raise SampleError(Defect.WRONG_SHAPE, "animated")
    if data.startswith(_PNG_SIGNATURE) and data[_PNG_DEPTH] == 16:
        raise SampleError(Defect.WRONG_SHAPE, "16 bits per channel, need 8")
    if picture.mode not in CHANNELS:
        raise SampleError(Defect.WRONG_SHAPE, f"mode {picture.mode}, need L or RGB")
    return CHANNELS[picture.mode], picture.height, picture.width


def _channels_first(array: Pixels) -> Pixels:
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


def _json_label(fields: Mapping[str, bytes]) -> int:
    if "json" not in fields:
        raise SampleError(Defect.BAD_LABEL, "neither .cls nor .json")
    try:
        content = json.loads(fields["json"])
    except (ValueError, RecursionError) as error:
        raise SampleError(Defect.BAD_LABEL, f".json is not JSON: {error}") from error
    label = content.get("label") if isinstance(content, dict) else None
    if not isinstance(label, int) or isinstance(label, bool):
        raise SampleError(Defect.BAD_LABEL, f'.json has no integer "label" ({label!r})')
    return label
