"""Quick decoders beside Pillow: the same pixels, or no answer."""

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decode import SampleError, decode_image
from pipeline.data.decode_fast import decode_fast

pytest.importorskip("simplejpeg", reason="the extra `fast` is not installed")
pytest.importorskip("imagecodecs", reason="the extra `fast` is not installed")

RNG = np.random.Generator(np.random.Philox(2))


def picture(height: int, width: int, channels: int) -> np.ndarray:
    """Smooth in both directions, so that compression has something to do, and some noise."""
    rows, columns = np.mgrid[:height, :width]
    waves = [120 + 60 * np.sin(rows / 3 + c) + 50 * np.cos(columns / 4) for c in range(channels)]
    return np.clip(
        np.stack(waves, -1) + RNG.normal(0, 8, (height, width, channels)), 0, 255
    ).astype(np.uint8)


def saved(array: np.ndarray, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array.squeeze()).save(buffer, format=kind, **options)
    return buffer.getvalue()


KINDS: dict[str, tuple[str, dict[str, Any]]] = {
    "png": ("PNG", {}),
    "png with a resolution": ("PNG", {"compress_level": 9, "dpi": (72, 72)}),
    "jpeg 4:2:0": ("JPEG", {"quality": 75}),
    "jpeg 4:4:4": ("JPEG", {"quality": 95, "subsampling": 0}),
    "progressive jpeg": ("JPEG", {"progressive": True}),
    "lossless webp": ("WEBP", {"lossless": True}),
    "webp": ("WEBP", {"quality": 80}),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("channels", [1, 3])
def test_pixels_are_those_of_pillow(kind: str, channels: int) -> None:
    """JPEG too: both use libjpeg-turbo with its accurate transform."""
    form, options = KINDS[kind]
    for height, width in [(8, 8), (17, 31), (64, 48)]:
        data = saved(picture(height, width, channels), form, **options)
        wanted = decode_image(data).transpose(1, 2, 0)
        found = decode_fast(data)
        assert found is not None
        assert np.array_equal(found, wanted)
        out = np.empty_like(wanted, order="C")
        assert decode_fast(data, out) is out
        assert np.array_equal(out, wanted)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_without_the_extra_everything_is_left_to_pillow(
    monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("pipeline.data.decode_fast.simplejpeg", None)
    monkeypatch.setattr("pipeline.data.decode_fast.imagecodecs", None)
    assert decode_fast(saved(picture(8, 8, 3), kind, lossless=True)) is None


def test_other_sizes_and_too_many_pixels_get_no_answer() -> None:
    data = saved(picture(8, 9, 3), "PNG")
    assert decode_fast(data, np.empty((9, 8, 3), np.uint8)) is None
    assert decode_fast(data, np.empty((8, 9, 1), np.uint8)) is None
    assert decode_fast(data, max_pixels=71) is None


def converted(mode: str, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image = Image.fromarray(picture(8, 8, 3)).convert(mode)
    if mode == "RGBA":
        image.putalpha(128)
    image.save(buffer, format=kind, lossless=True)
    return buffer.getvalue()


def transparent_colour() -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(picture(8, 8, 3)).save(buffer, format="PNG", transparency=(1, 2, 3))
    return buffer.getvalue()


def animated(kind: str) -> bytes:
    frames = [Image.fromarray(picture(8, 8, 3)) for _ in range(2)]
    buffer = io.BytesIO()
    frames[0].save(buffer, format=kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xd8",
        b"RIFF\0\0\0\0WEBP",
        converted("RGBA"),
        converted("P"),
        converted("1"),
        converted("LA"),
        converted("CMYK", "JPEG"),
        converted("RGBA", "WEBP"),
        saved(RNG.integers(0, 2**16, (4, 4), np.uint16), "PNG"),
        transparent_colour(),
        animated("PNG"),
        animated("WEBP"),
    ],
)
def test_whatever_is_not_plain_is_left_to_pillow(data: bytes) -> None:
    assert decode_fast(data) is None


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_damage_is_never_turned_into_other_pixels_than_pillow_would_show(kind: str) -> None:
    """Cuts and flipped bits: no answer, or Pillow's answer, or one that Pillow refuses to give.

    The last is harmless: blocks are checked by CRC-32, so this guards against careless files only.
    """
    whole = saved(picture(12, 12, 3), kind, **({"lossless": True} if kind == "WEBP" else {}))
    damaged = [whole[:cut] for cut in range(0, len(whole), 7)]
    for bit in RNG.integers(0, 8 * len(whole), 300).tolist():
        data = bytearray(whole)
        data[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(data))
    for data in damaged:
        found = decode_fast(data)
        if found is None:
            continue
        try:
            wanted = decode_image(data).transpose(1, 2, 0)
        except SampleError:
            continue
        assert np.array_equal(found, wanted)
