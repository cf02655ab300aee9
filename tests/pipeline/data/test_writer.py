"""Shards: reproducible bytes, blocks that are tars of their own, readable by others."""

import hashlib
import io
import tarfile
import zlib
from pathlib import Path

import numpy as np
import pytest
import webdataset

from pipeline.data.dataset import open_dataset
from pipeline.data.decode import encode_png
from pipeline.data.manifest import DatasetInfo, ShardRow
from pipeline.data.tar_fast import Record
from pipeline.data.tar_reader import parse_block
from pipeline.data.writer import (
    ShardSample,
    cut_blocks,
    finish_dataset,
    usable_key,
    write_shard,
)
from pipeline.storage import open_storage

INFO = DatasetInfo("train", (1, 4, 4), 2, ("a", "b"))
PNG = encode_png(np.zeros((1, 4, 4), np.uint8))


def samples(count: int) -> list[ShardSample]:
    return [
        ShardSample(f"{n:04d}", PNG, "png", n % 2, {"seed": n, "name": "é"}) for n in range(count)
    ]


def write(folder: Path, count: int = 10, block_samples: int = 4) -> ShardRow:
    place = open_storage(str(folder))
    return write_shard(place, "x.tar", samples(count), block_samples=block_samples)


def test_the_same_samples_give_the_same_bytes(tmp_path: Path) -> None:
    """The golden digest holds the shard format fixed."""
    one, two = write(tmp_path / "1"), write(tmp_path / "2")
    assert one == two
    assert one.sha256 == hashlib.sha256((tmp_path / "1/x.tar").read_bytes()).hexdigest()
    assert one.sha256 == "45568f4005e3e4c57b0f020c704c920b6cda1a41fa6b2c921a4c6ce5b3ec1781"


def test_each_block_is_a_readable_piece_of_tar_with_its_own_checksum(tmp_path: Path) -> None:
    row = write(tmp_path)
    data = (tmp_path / "x.tar").read_bytes()
    assert [block.samples for block in row.blocks] == [4, 4, 2]
    assert row.blocks[0].offset == 0
    for block in row.blocks:
        piece = data[block.offset : block.offset + block.bytes]
        assert zlib.crc32(piece) == block.crc32
        with tarfile.open(fileobj=io.BytesIO(piece), mode="r:") as archive:
            assert len(archive.getnames()) == 3 * block.samples
    assert row.label_counts == ((0, 5), (1, 5))


@pytest.mark.filterwarnings("ignore:.*x.tar:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore:.*x.tar:ResourceWarning")  # it leaves its file open
def test_webdataset_itself_reads_the_shard(tmp_path: Path) -> None:
    write(tmp_path)
    found = list(webdataset.WebDataset(str(tmp_path / "x.tar"), shardshuffle=False).decode("l8"))
    assert [sample["__key__"] for sample in found] == [f"{n:04d}" for n in range(10)]
    assert [sample["cls"] for sample in found] == [n % 2 for n in range(10)]
    assert found[3]["json"] == {"seed": 3, "name": "é"}
    assert found[3]["png"].shape == (4, 4)


def test_samples_without_label_or_extra_have_an_image_only(tmp_path: Path) -> None:
    place = open_storage(str(tmp_path))
    row = write_shard(place, "x.tar", [ShardSample("k", PNG, "png")])
    (record,) = parse_block(
        (tmp_path / "x.tar").read_bytes()[: row.blocks[0].bytes], row.blocks[0], "x.tar"
    )
    assert isinstance(record, Record)
    assert record.fields == {"png": PNG}
    assert row.label_counts == ()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ([], "at least one"),
        ([ShardSample("a", PNG, "png"), ShardSample("a", PNG, "png")], "repeated keys"),
        ([ShardSample("../a", PNG, "png")], "not a plain"),
        ([ShardSample("a.b", PNG, "png")], "not a plain"),
        ([ShardSample("a" * 91, PNG, "png")], "not a plain"),
        ([ShardSample("a", PNG, "gif")], "extension 'gif'"),
    ],
)
def test_samples_that_could_not_be_read_back_are_refused_before_writing(
    tmp_path: Path, bad: list[ShardSample], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        write_shard(open_storage(str(tmp_path)), "x.tar", bad)
    assert list(tmp_path.iterdir()) == []


def test_the_longest_key_fits_into_a_tar_header(tmp_path: Path) -> None:
    key = "ü" * 45
    assert usable_key(key)
    write_shard(open_storage(str(tmp_path)), "x.tar", [ShardSample(key, PNG, "jpeg", 1, {})])
    with tarfile.open(tmp_path / "x.tar", "r:") as archive:
        assert archive.getnames() == [f"{key}.cls", f"{key}.jpeg", f"{key}.json"]


def test_blocks_end_at_the_sample_or_the_byte_limit() -> None:
    assert cut_blocks([0, 10, 20, 30, 40, 50], 2) == [(0, 20, 2), (20, 40, 2), (40, 50, 1)]
    assert cut_blocks([5, 10, 40, 45, 50], 9, block_bytes=30) == [(5, 40, 2), (40, 50, 2)]
    assert cut_blocks([0, 99], 9, block_bytes=1) == [(0, 99, 1)]


def test_a_folder_is_a_dataset_only_once_it_is_finished(tmp_path: Path) -> None:
    row = write(tmp_path)
    finished = finish_dataset(open_storage(str(tmp_path)), [row], INFO)
    assert finished.samples == 10
    dataset = open_dataset(str(tmp_path))
    assert dataset.info == finished
    assert dataset.rows == (row,)
    assert dataset.label_counts == (5, 5)
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "dataset.json",
        "manifest.parquet",
        "x.tar",
    ]


def test_a_dataset_needs_shards_and_each_once(tmp_path: Path) -> None:
    row = write(tmp_path)
    for rows in ([], [row, row]):
        with pytest.raises(ValueError, match="at least one shard, each once"):
            finish_dataset(open_storage(str(tmp_path)), rows, INFO)
