"""Packing and indexing keep every source's pixels and labels."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from packing import COLOUR, GREY, config, contents, expected, idx, parquet, run, tars, tree
from pipeline.data.decode import decode_image
from pipeline.data.stream import iterate_once

CIFAR10 = Path(__file__).parents[4] / "shared" / "data" / "cifar10"


def test_idx_arrays_become_png(tmp_path: Path) -> None:
    dataset = run(config(tmp_path, idx(tmp_path)))
    assert contents(dataset) == expected(GREY)
    assert dataset.info.shape == (1, 6, 5)
    assert dataset.info.encoding == "png"
    assert dataset.info.class_names == ("0", "1", "2")
    assert dataset.info.mean == pytest.approx([GREY.mean() / 255], rel=1e-12)
    assert dataset.info.std == pytest.approx([GREY.std() / 255], rel=1e-12)


def test_constant_images_have_no_deviation(tmp_path: Path) -> None:
    dataset = run(config(tmp_path, idx(tmp_path, np.full_like(GREY, 77))))
    assert dataset.info.mean == pytest.approx([77 / 255], rel=1e-12)
    assert dataset.info.std == pytest.approx([0.0], abs=1e-7)


def test_idx_can_be_limited_and_unlabelled(tmp_path: Path) -> None:
    source = idx(tmp_path) | {"limit": 7, "labels": None}
    dataset = run(config(tmp_path, source))
    assert contents(dataset) == expected(GREY[:7], None)
    assert dataset.info.classes is None
    assert dataset.label_counts == ()


def test_folders_are_classes_and_files_keep_their_bytes(tmp_path: Path) -> None:
    dataset = run(config(tmp_path, tree(tmp_path)))
    assert contents(dataset) == expected(COLOUR)
    assert dataset.info.class_names == ("class 0", "class 1", "class 2")
    (batch, *_) = iterate_once(dataset, batch_size=12)
    assert {key.partition("/")[2] for key in batch.keys} >= {"class 0/part0/img_0"}


def test_a_folder_can_be_unlabelled(tmp_path: Path) -> None:
    dataset = run(config(tmp_path, tree(tmp_path) | {"labelled": False}))
    assert contents(dataset) == expected(COLOUR, None)


@pytest.mark.parametrize("structs", [False, True])
def test_parquet_keeps_the_encoded_bytes(tmp_path: Path, structs: bool) -> None:
    dataset = run(config(tmp_path, parquet(tmp_path, structs)))
    assert contents(dataset) == expected(COLOUR)
    assert dataset.info.encoding == "webp"


@pytest.mark.parametrize("inside", [False, True], ids=["beside", "in their folder"])
def test_tars_are_indexed_and_not_touched(tmp_path: Path, inside: bool) -> None:
    source = tars(tmp_path)
    if inside:
        source["path"] = str(tmp_path / "tars" / "train")
        (tmp_path / "tars" / "train").mkdir()
        for part in range(2):
            (tmp_path / f"tars/{part}.tar").rename(tmp_path / f"tars/train/{part}.tar")
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.tar")}
    output = str(tmp_path / ("tars" if inside else "out"))
    dataset = run(config(tmp_path, source, output=output))
    assert contents(dataset) == expected(COLOUR)
    assert [row.samples for row in dataset.rows] == [6, 6]
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.tar")} == before
    again = config(tmp_path, source, output=output, overwrite=True)
    assert run(again).info == dataset.info
    assert {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in tmp_path.rglob("*.tar")} == before


def test_keys_with_equal_hashes_are_looked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Hashes save memory; that they may collide must not refuse anyone's data."""
    monkeypatch.setattr("pipeline.prepare.tar_index.key_hash", lambda key: 7)
    assert contents(run(config(tmp_path, tars(tmp_path)))) == expected(COLOUR)


@pytest.mark.skipif(not CIFAR10.is_dir(), reason=f"CIFAR-10 is not at {CIFAR10}")
@pytest.mark.parametrize("groups", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_cifar10_unpacks_to_identical_pixels_and_labels(tmp_path: Path, groups: int) -> None:
    """The first 1,000 test images, or all 10,000: stored as lossless WebP, kept as they are."""
    file = pq.ParquetFile(CIFAR10 / "test-00000-of-00001.parquet")
    table = file.read_row_groups(range(groups))
    pq.write_table(table, tmp_path / "x.parquet", row_group_size=300)
    dataset = run(
        config(tmp_path, {"kind": "parquet", "path": f"{tmp_path}/x.parquet"}, shard_samples=400)
    )
    truth = {
        decode_image(image).tobytes(): label
        for image, label in zip(table["image"].to_pylist(), table["label"].to_pylist(), strict=True)
    }
    assert contents(dataset) == truth
    assert sum(dataset.label_counts) == len(truth) == 1000 * groups
