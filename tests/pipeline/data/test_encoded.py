"""Blocks to columns: the short way of the usual block says what the complete one says."""

import io
import tarfile
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data import checksum
from pipeline.data.decode import SampleError
from pipeline.data.encoded import Encoded, _usual, encoded, encoded_block
from pipeline.data.manifest import Block
from pipeline.data.tar_reader import parse_block


def tar(members: list[tuple[str, bytes]]) -> bytes:
    """Members only: without the zeros at the end."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        end = archive.offset
    return buffer.getvalue()[:end]


def block_of(data: bytes, samples: int) -> Block:
    return Block(0, len(data), samples, zlib.crc32(data))


def comparable(samples: Encoded) -> list[object]:
    """Errors compare by their words."""
    pictures = [str(p) if isinstance(p, SampleError) else p for p in samples.pictures]
    return [pictures, samples.labels, samples.places]


FIELDS = st.sampled_from(["png", "jpg", "cls", "CLS", "PNG", "json", "seg.png"])
LABELS = [b"1", b"0", b"2\n", b"12", b"-1", b"1|2", b"", b"x", b"1_0", b" 1", b'{"label": 1}']
ODD = [("odd", ["png", "cls"]), ("s3", ["png"]), ("s0", ["png", "cls", "json"])]


@settings(max_examples=300, deadline=None)
@given(
    fields=st.lists(FIELDS, min_size=1, max_size=3),
    count=st.integers(1, 5),
    odd=st.none() | st.sampled_from(ODD),
    content=st.lists(st.sampled_from(LABELS), min_size=4, max_size=4),
    classes=st.none() | st.integers(1, 13),
)
def test_the_short_way_agrees_with_the_complete_one_or_abstains(
    fields: list[str],
    count: int,
    odd: tuple[str, list[str]] | None,
    content: list[bytes],
    classes: int | None,
) -> None:
    """Whatever fields samples have, in whatever order, and whatever is written in them."""
    groups = [(f"s{i}", fields) for i in range(count)] + ([odd] if odd else [])
    names = [f"{key}.{field}" for key, own in groups for field in own]
    data = tar([(name, content[i % 4]) for i, name in enumerate(names)])
    short = _usual(data, "s.tar", classes)
    if short is not None:
        block = block_of(data, len(short.places))
        complete = encoded(parse_block(data, block, "s.tar"), classes)
        assert comparable(short) == comparable(complete)
        assert comparable(encoded_block(data, block, "s.tar", classes)) == comparable(short)


@pytest.mark.parametrize("classes", [None, 3])
def test_the_usual_block_goes_the_short_way(classes: int | None) -> None:
    """Else it would be correct, and slower."""
    data = tar([("a/1.png", b"p"), ("a/1.cls", b"2"), ("b.png", b"q"), ("b.cls", b"0\n")])
    labels = [2, 0] if classes else [-1, -1]
    assert _usual(data, "s.tar", classes) == ([b"p", b"q"], labels, ["s.tar/a/1", "s.tar/b"])


def test_a_sample_without_its_label_is_an_error_with_its_place_and_the_others_stay() -> None:
    data = tar([("a.png", b"p"), ("a.cls", b"1"), ("b.png", b"q")])
    samples = encoded_block(data, block_of(data, 2), "s.tar", 2)
    assert samples.pictures[0] == b"p"
    assert str(samples.pictures[1]) == "s.tar/b: bad label: neither .cls nor .json"
    assert samples.labels == [1, -1]


@given(st.binary(max_size=300))
def test_the_checksum_is_zlib_s_with_and_without_the_extra(data: bytes) -> None:
    """The manifest's numbers must not depend on what is installed."""
    assert checksum.crc32(data) == zlib.crc32(data)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checksum, "imagecodecs", None)
        assert checksum.crc32(data) == zlib.crc32(data)
