"""Reading tars that others made or that broke: nothing is lost silently, nothing is run."""

import gzip
import io
import pickle
import tarfile
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.decode import Defect, SampleError
from pipeline.data.manifest import Block
from pipeline.data.tar_fast import Record, plain_samples
from pipeline.data.tar_reader import _any_samples, parse_block, sample_offsets
from pipeline.errors import InputError
from pipeline.storage import open_storage


def tar(members: list[tuple[str, bytes]], tar_format: int = tarfile.USTAR_FORMAT) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tar_format) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def block_of(data: bytes, samples: int) -> Block:
    return Block(0, len(data), samples, zlib.crc32(data))


def parse(data: bytes, samples: int) -> list[Record | SampleError]:
    return parse_block(data, block_of(data, samples), "s.tar")


TWO = [("a/x.cls", b"1"), ("a/x.PNG", b"pixels"), ("b.c.png", b"more")]


def test_members_are_grouped_into_samples_by_name() -> None:
    assert parse(tar(TWO), 2) == [
        Record("s.tar/a/x", {"cls": b"1", "png": b"pixels"}),
        Record("s.tar/b", {"c.png": b"more"}),
    ]


@pytest.mark.parametrize(
    "tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]
)
def test_every_tar_dialect_is_cut_at_whole_samples(tmp_path: Path, tar_format: int) -> None:
    long = "n" * 80 if tar_format == tarfile.USTAR_FORMAT else "n" * 180
    members = [(f"{long}{i}.{e}", bytes([i]) * 700) for i in range(4) for e in ("cls", "png")]
    data = tar(members, tar_format)
    (tmp_path / "s.tar").write_bytes(data)
    offsets = sample_offsets(open_storage(str(tmp_path / "s.tar")))
    assert len(offsets) == 5
    for i in range(4):
        (record,) = parse(data[offsets[i] : offsets[i + 1]], 1)
        assert isinstance(record, Record)
        assert record.place == f"s.tar/{long}{i}"
        assert record.fields["png"] == bytes([i]) * 700


NAMES = [
    "a.png",
    "b.c.cls",
    "d/e.PNG",
    "ü.png",
    "a.cls",
    "x.",
    "./y.png",
    "a//b.png",
    "n" * 96 + ".cls",
]


@settings(max_examples=150, deadline=None)
@given(
    members=st.lists(st.tuples(st.sampled_from(NAMES), st.binary(max_size=1200)), min_size=1),
    tar_format=st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
    flip=st.none() | st.integers(0, 8 * 512 - 1),
)
def test_the_look_at_all_headers_agrees_with_the_complete_reader_or_abstains(
    members: list[tuple[str, bytes]], tar_format: int, flip: int | None
) -> None:
    """On any mixture of names, also with a damaged first header."""
    data = bytearray(tar(members, tar_format)[: -2 * 512])  # zeros follow up to 10 KiB
    while not any(data[-512:]):
        del data[-512:]
    if flip is not None:
        data[flip // 8] ^= 1 << flip % 8
    quick = plain_samples(bytes(data), "s.tar")
    if quick is not None:
        assert parse(bytes(data), len(quick)) == quick
        assert _any_samples(bytes(data), "s.tar") == quick


def test_the_usual_shard_is_read_by_the_look_at_all_headers() -> None:
    """Else it would be correct, and 20 times slower."""
    quick = plain_samples(tar(TWO)[: 6 * 512], "s.tar")
    assert quick is not None
    assert [record.place for record in quick] == ["s.tar/a/x", "s.tar/b"]


def test_folders_links_and_nameless_files_are_no_samples() -> None:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:") as archive:
        for name, kind in (("d.png", tarfile.DIRTYPE), ("l.png", tarfile.SYMTYPE)):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        archive.addfile(tarfile.TarInfo("README"))
    data = buffer.getvalue() + tar([("x.png", b"1")])
    assert parse(tar([("README", b"")]), 0) == []
    assert parse(buffer.getvalue(), 0) == []
    assert len(data) > 0


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 512,
        b"\xa5" * 2048,
        gzip.compress(b"\0" * 2**20),
        tar(TWO)[:700],
        tar(TWO)[:512] + b"\xff" * 600 + tar(TWO)[1112:],
        tar([("x.png", b"1"), ("x.png", b"2")]),
    ],
    ids=["empty", "zeros", "noise", "gzip", "cut", "overwritten", "twice"],
)
def test_a_piece_that_does_not_hold_what_was_promised_becomes_holes(data: bytes) -> None:
    """Even if its checksum is right: 2 samples were promised, 2 holes come."""
    holes = parse(data, 2)
    assert [hole.defect for hole in holes if isinstance(hole, SampleError)] == [
        Defect.DAMAGED_BLOCK, Defect.DAMAGED_BLOCK,
    ]  # fmt: skip


def test_a_compressed_tar_is_never_expanded() -> None:
    """Auto-detection would expand it; plain mode refuses it."""
    (hole,) = parse(gzip.compress(tar([("x.png", b"1")])), 1)
    assert isinstance(hole, SampleError)


@pytest.mark.parametrize("key", ["../x", "/etc/x", "a/../../x", "a\\x"])
def test_keys_that_could_leave_their_folder_become_holes(key: str) -> None:
    good, bad = parse(tar([("ok.png", b"1"), (f"{key}.png", b"1")]), 2)
    assert isinstance(good, Record)
    assert isinstance(bad, SampleError)
    assert bad.defect is Defect.UNSAFE_KEY


class _Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (pytest.fail, ("a pickle was loaded",))


def test_pickles_stay_bytes() -> None:
    payload = pickle.dumps(_Bomb())
    assert parse(tar([("x.pkl", payload)]), 1) == [Record("s.tar/x", {"pkl": payload})]


@pytest.mark.parametrize(
    "cut", [0, 100, 512, 700, 2048, 2560, 3000], ids=lambda cut: f"{cut} bytes"
)
def test_a_truncated_tar_is_not_indexed(tmp_path: Path, cut: int) -> None:
    """Also where it is cut between two members, which a tar reader takes for the end."""
    whole = tar([(f"{i}.png", b"x" * 600) for i in range(3)])
    (tmp_path / "s.tar").write_bytes(whole[:cut])
    with pytest.raises(InputError, match=r"s\.tar is (truncated|not a plain tar)"):
        sample_offsets(open_storage(str(tmp_path / "s.tar")))


def test_mid_file_damage_is_not_indexed(tmp_path: Path) -> None:
    whole = bytearray(tar([(f"{i}.png", b"x" * 600) for i in range(3)]))
    whole[1536:1700] = b"\xee" * 164  # the second header
    (tmp_path / "s.tar").write_bytes(whole)
    with pytest.raises(InputError, match="truncated or damaged at byte 1536"):
        sample_offsets(open_storage(str(tmp_path / "s.tar")))
