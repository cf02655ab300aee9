"""Pictures and labels from untrusted bytes: exact where good, named where bad."""

import io
import struct
import zlib
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.data.decode import (
    Defect,
    SampleError,
    convert_image,
    decode_image,
    decode_label,
    encode_png,
    extension_of,
    image_field,
    safe_key,
)

RNG = np.random.Generator(np.random.Philox(1))
GREY = RNG.integers(0, 256, (1, 7, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (3, 7, 5), np.uint8)


def saved(array: np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, format=kind, **options)
    return buffer.getvalue()


def converted(mode: str) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(COLOUR.transpose(1, 2, 0)).convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()


def animated() -> bytes:
    buffer = io.BytesIO()
    frames = [Image.fromarray(np.full((7, 5), 40 * i, np.uint8)) for i in range(3)]
    frames[0].save(buffer, format="PNG", save_all=True, append_images=frames[1:])
    return buffer.getvalue()


def png_16_bit_rgb() -> bytes:
    """Pillow cannot write this one: 48 bits a pixel, which it reads as 8-bit RGB."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    header = struct.pack(">IIBBBBB", 1, 1, 16, 2, 0, 0, 0)
    rows = zlib.compress(bytes([0, 1, 2, 3, 4, 5, 6]))
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    )


def bomb() -> bytes:
    """A PNG of 12,000 x 12,000 pixels in a few hundred bytes."""
    buffer = io.BytesIO()
    Image.new("1", (12000, 12000)).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("image", [GREY, COLOUR])
def test_png_round_trip_is_lossless_and_deterministic(image: np.ndarray) -> None:
    data = encode_png(image)
    assert data == encode_png(image.copy())
    assert np.array_equal(decode_image(data, tuple(image.shape)), image)


def test_lossless_webp_and_jpeg_are_read() -> None:
    webp = saved(COLOUR.transpose(1, 2, 0), "WEBP", lossless=True)
    assert np.array_equal(decode_image(webp), COLOUR)
    assert decode_image(saved(GREY[0], "JPEG")).shape == (1, 7, 5)
    assert [extension_of(saved(GREY[0], kind)) for kind in ("PNG", "JPEG", "WEBP")] == [
        "png", "jpg", "webp",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "data",
    [b"", b"not an image", encode_png(GREY)[:60], encode_png(GREY)[:-40], encode_png(GREY)[:8]],
    ids=["empty", "text", "cut early", "cut late", "signature only"],
)
def test_what_is_no_whole_image_is_a_bad_image(data: bytes) -> None:
    with pytest.raises(SampleError) as caught:
        decode_image(data)
    assert caught.value.defect is Defect.BAD_IMAGE


def test_a_flipped_bit_in_a_png_is_noticed() -> None:
    data = bytearray(encode_png(GREY))
    data[50] ^= 4
    with pytest.raises(SampleError, match="bad image"):
        decode_image(bytes(data))


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (converted("RGBA"), "mode RGBA"),
        (converted("P"), "mode P"),
        (converted("LA"), "mode LA"),
        (converted("1"), "mode 1"),
        (saved(RNG.integers(0, 2**16, (4, 4), np.uint16)), "16 bits"),
        (png_16_bit_rgb(), "16 bits"),
        (animated(), "animated"),
        (encode_png(COLOUR), r"\(3, 7, 5\), the dataset has \(1, 7, 5\)"),
        (encode_png(GREY[:, :6]), r"\(1, 6, 5\), the dataset has \(1, 7, 5\)"),
    ],
)
def test_other_modes_depths_and_sizes_are_refused_by_name(data: bytes, why: str) -> None:
    with pytest.raises(SampleError, match=why) as caught:
        decode_image(data, (1, 7, 5))
    assert caught.value.defect is Defect.WRONG_SHAPE


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bomb_is_refused_by_its_header() -> None:
    with pytest.raises(SampleError, match=r"mode 1"):
        decode_image(bomb())
    with pytest.raises(SampleError, match="over 1000 pixels"):
        decode_image(encode_png(np.zeros((1, 40, 40), np.uint8)), max_pixels=1000)
    with pytest.raises(SampleError, match="over 1000 pixels"):
        convert_image(encode_png(np.zeros((1, 40, 40), np.uint8)), "RGB", max_pixels=1000)


def test_conversion_gives_the_wanted_mode() -> None:
    assert np.array_equal(convert_image(encode_png(GREY), "RGB"), np.repeat(GREY, 3, axis=0))
    opaque = converted("RGBA")
    assert np.array_equal(convert_image(opaque, "RGB"), COLOUR)
    wide = np.array([[0, 255, 256, 65535]], np.uint16)
    assert convert_image(saved(wide), "L").tolist() == [[[0, 0, 1, 255]]]
    assert convert_image(animated(), "L").tolist() == np.zeros((1, 7, 5)).tolist()


@pytest.mark.parametrize("image", [GREY.astype(np.int64), GREY[0], np.zeros((2, 4, 4), np.uint8)])
def test_only_uint8_images_are_encoded(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match="need uint8"):
        encode_png(image)


def test_labels_come_from_cls_or_json() -> None:
    assert decode_label({"cls": b"7"}, 10) == 7
    assert decode_label({"cls": b"7\n"}, 10) == 7
    assert decode_label({"json": b'{"label": 9}'}, 10) == 9


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"cls": b""},
        {"cls": b"x"},
        {"cls": b"1.0"},
        {"cls": b"1_0"},
        {"cls": b"-1"},
        {"cls": b"10"},
        {"cls": b"4294967296"},
        {"cls": b"9" * 400},
        {"json": b"{"},
        {"json": b"[1]"},
        {"json": b'{"label": true}'},
        {"json": b'{"label": 1.5}'},
        {"json": b'{"name": 1}'},
        {"pkl": b"\x80\x04K\x01."},
    ],
)
def test_a_missing_malformed_or_outlying_label_is_a_bad_label(fields: dict[str, bytes]) -> None:
    with pytest.raises(SampleError) as caught:
        decode_label(fields, 10)
    assert caught.value.defect is Defect.BAD_LABEL


def test_a_sample_has_exactly_one_image() -> None:
    assert image_field({"cls": b"1", "webp": b"x", "json": b""}) == ("webp", b"x")
    for fields in ({"cls": b"1"}, {"png": b"", "jpg": b""}, {"pth": b""}):
        with pytest.raises(SampleError, match="no image"):
            image_field(fields)


@pytest.mark.parametrize("key", ["../a", "a/../b", "/etc/x", "a//b", "a\\b", "a\nb", "", ".", "a/"])
def test_keys_that_could_leave_their_folder_are_unsafe(key: str) -> None:
    assert not safe_key(key)
    assert safe_key("cat/img_001")
