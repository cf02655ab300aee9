"""Bad input to packing is named, and leaves no trace."""

import gzip
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from packing import (
    COLOUR,
    GOOD,
    GREY,
    LABELS,
    config,
    contents,
    expected,
    idx,
    parquet,
    picture,
    refuse,
    run,
    tree,
)
from pipeline.data.dataset import open_dataset
from pipeline.data.decode import encode_png
from pipeline.errors import InputError
from pipeline.prepare.splits import plan_prepare, prepare


def test_missing_and_empty_inputs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for kind, nothing in [("folder", "is not a folder"), ("parquet", "none does not exist")]:
        refuse(config(tmp_path, {"kind": kind, "path": f"{tmp_path}/none"}), nothing)
    for kind, empty in [
        ("folder", "no files"),
        ("parquet", "no .parquet"),
        ("webdataset", "no .tar"),
    ]:
        refuse(config(tmp_path, {"kind": kind, "path": f"{tmp_path}/empty"}), empty)
    (tmp_path / "text.parquet").write_text("none of it")
    text = {"kind": "parquet", "path": f"{tmp_path}/text.parquet"}
    refuse(config(tmp_path, text), "is not a readable Parquet file")
    source = idx(tmp_path)
    refuse(config(tmp_path, source | {"images": f"{tmp_path}/none"}), "none does not exist")


def test_idx_files_that_are_none(tmp_path: Path) -> None:
    source = idx(tmp_path)
    swapped = {**source, "images": source["labels"], "labels": source["images"]}
    refuse(config(tmp_path, swapped), r"not an IDX file.*are images and labels exchanged")
    short = idx(tmp_path, labels=LABELS[:11])
    refuse(config(tmp_path, short), "12 images and .* 11 labels")
    data = gzip.decompress((tmp_path / "images.gz").read_bytes())
    (tmp_path / "images.gz").write_bytes(data[:-1])
    refuse(config(tmp_path, source), "359 values, its header says")
    (tmp_path / "images.gz").write_bytes(gzip.compress(data + bytes(2**26)))
    refuse(config(tmp_path, source), "361 or more values")  # the rest is never expanded
    (tmp_path / "images.gz").write_bytes(data[:4] + b"\xff" * 12)
    refuse(config(tmp_path, source), "0 values, its header says")
    (tmp_path / "images.gz").write_bytes(data[:4] + struct.pack(">3I", 12, 0, 5))
    refuse(config(tmp_path, source), "images of no pixels")
    (tmp_path / "images.gz").write_bytes(gzip.compress(data)[:-30])
    refuse(config(tmp_path, source), "cannot read .*cut short")


def test_labels_out_of_range_name_the_image(tmp_path: Path) -> None:
    source = idx(tmp_path)
    refuse(config(tmp_path, source, class_names=["a", "b"]), r"image 2: label 2 is outside 0\.\.1")
    table = pa.table({"image": [picture(COLOUR[0])], "label": pa.array([-1], pa.int8())})
    pq.write_table(table, tmp_path / "x.parquet")
    refuse(
        config(tmp_path, {"kind": "parquet", "path": str(tmp_path / "x.parquet")}),
        "row 0: label -1 is outside",
    )


def test_a_label_that_is_no_class_is_not_taken_for_two_billion_of_them(tmp_path: Path) -> None:
    """Each class has a name: a column of times or identities would fill the memory."""
    table = pa.table({"image": [picture(COLOUR[0])], "label": [2_000_000_000]})
    pq.write_table(table, tmp_path / "x.parquet")
    refuse(
        config(tmp_path, {"kind": "parquet", "path": str(tmp_path / "x.parquet")}),
        r"row 0: label 2000000000 is outside 0\.\.999999",
    )


@pytest.mark.parametrize(
    ("label", "message"),
    [(["cat"], "does not hold integers"), ([1.0], "does not hold integers")],
)
def test_parquet_labels_must_be_integers(tmp_path: Path, label: list[Any], message: str) -> None:
    pq.write_table(
        pa.table({"image": [picture(COLOUR[0])], "label": label}), tmp_path / "x.parquet"
    )
    refuse(config(tmp_path, {"kind": "parquet", "path": str(tmp_path / "x.parquet")}), message)


def test_parquet_columns_must_be_there(tmp_path: Path) -> None:
    source = parquet(tmp_path)
    refuse(
        config(tmp_path, source | {"image": "img"}), r"no column 'img', only \['image', 'label'\]"
    )
    refuse(config(tmp_path, source | {"image": "label"}), "'label' does not hold bytes")
    images = pa.array([picture(COLOUR[0])])
    twice = pa.Table.from_arrays([images, images, pa.array([0])], ["image", "image", "label"])
    pq.write_table(twice, tmp_path / "twice.parquet")
    refuse(
        config(tmp_path, {"kind": "parquet", "path": str(tmp_path / "twice.parquet")}),
        "several columns 'image'",
    )
    table = pa.table({"image": [picture(COLOUR[0]), None], "label": [0, 1]})
    pq.write_table(table, tmp_path / "hole.parquet")
    hole = {"kind": "parquet", "path": str(tmp_path / "hole.parquet")}
    refuse(config(tmp_path, hole), "row 1: no image: empty")
    table = pa.table({"image": [picture(COLOUR[0])], "label": pa.array([None], pa.int64())})
    pq.write_table(table, tmp_path / "hole.parquet")
    refuse(config(tmp_path, hole), "row 0: no label")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"hello", r"odd\.png: bad image"),
        (encode_png(COLOUR[0])[:-60], r"odd\.png: bad image"),
        (encode_png(COLOUR[0, :, :5]), r"\(3, 5, 5\), the images before it have \(3, 6, 5\)"),
        (encode_png(GREY[0]), r"\(1, 6, 5\), the images before it have \(3, 6, 5\)"),
        (picture(COLOUR[0], mode="RGBA"), "mode RGBA"),
        (picture(COLOUR[0], mode="P"), "mode P"),
    ],
)
def test_an_unusable_image_is_named_or_skipped_and_counted(
    tmp_path: Path, data: bytes, message: str
) -> None:
    source = tree(tmp_path)
    (tmp_path / "tree/class 2/odd.png").write_bytes(data)
    refuse(config(tmp_path, source), message)
    plan = plan_prepare(config(tmp_path, source, on_bad_image="skip"))
    assert len(plan.inputs["train"].survey.bad) == 1
    assert contents(prepare(plan)["train"]) == expected(COLOUR)


def test_unusable_images_are_reported_by_kind_and_place(tmp_path: Path) -> None:
    source = tree(tmp_path)
    (tmp_path / "tree/class 1/a.png").write_bytes(b"hello")
    (tmp_path / "tree/class 2/b.png").write_bytes(picture(COLOUR[0], mode="RGBA"))
    (tmp_path / "tree/class 2/c.png").write_bytes(encode_png(GREY[0]))
    plan = plan_prepare(config(tmp_path, source, on_bad_image="skip"))
    assert plan.text().endswith("leaving out 1 x bad image, 2 x wrong shape")
    prepare(plan)
    lines = (tmp_path / "out/train/bad_images.jsonl").read_text().splitlines()
    found = [json.loads(line) for line in lines]
    assert [(one["defect"], one["place"].rpartition("/")[2]) for one in found] == [
        ("bad image", "a.png"), ("wrong shape", "b.png"), ("wrong shape", "c.png"),
    ]  # fmt: skip
    assert all(one["detail"] for one in found)


def test_too_many_unusable_images_are_refused(tmp_path: Path) -> None:
    source = tree(tmp_path)
    (tmp_path / "tree/class 2/odd.png").write_bytes(b"hello")
    given = config(tmp_path, source, on_bad_image="skip", max_bad_fraction=0.05)
    refuse(given, r"1 of 13 images are unusable, more than max_bad_fraction 0\.05.*odd\.png")


def test_other_modes_can_be_converted(tmp_path: Path) -> None:
    source = tree(tmp_path)
    (tmp_path / "tree/class 2/odd.png").write_bytes(picture(COLOUR[0] ^ 255, mode="RGBA"))
    dataset = run(config(tmp_path, source, convert="RGB"))
    inverted = {(COLOUR[0] ^ 255).tobytes(): 2}
    assert contents(dataset) == expected(COLOUR) | inverted
    grey = run(config(tmp_path, source, convert="L", output=str(tmp_path / "grey")))
    assert grey.info.shape == (1, 6, 5)
    wide = run(config(tmp_path, idx(tmp_path), convert="RGB", output=str(tmp_path / "wide")))
    assert contents(wide) == expected(np.repeat(GREY, 3, axis=1))


def test_a_source_without_a_usable_image(tmp_path: Path) -> None:
    (tmp_path / "tree/a").mkdir(parents=True)
    (tmp_path / "tree/a/x.txt").write_bytes(b"text")
    source = {"kind": "folder", "path": str(tmp_path / "tree")}
    refuse(config(tmp_path, source, on_bad_image="skip"), "none of 1 images is usable.*x.txt")


def test_folder_trees_that_are_ambiguous(tmp_path: Path) -> None:
    source = tree(tmp_path)
    (tmp_path / "tree/class 0/img.jpg").write_bytes(b"")
    (tmp_path / "tree/class 0/img.png").write_bytes(b"")
    refuse(config(tmp_path, source), "get the same key class 0/img; rename one")
    (tmp_path / "tree/loose.png").write_bytes(b"")
    refuse(config(tmp_path, source), r"1 files are in no class folder \(loose.png")


def test_a_name_that_cannot_be_a_key(tmp_path: Path) -> None:
    source = tree(tmp_path)
    (tmp_path / "tree/class 0" / ("n" * 120 + ".png")).write_bytes(encode_png(COLOUR[0]))
    refuse(config(tmp_path, source), "not usable as a key; rename it")


def test_trees_that_cannot_be_listed(tmp_path: Path) -> None:
    """Links round in a circle would multiply for ever, and a name may be no text."""
    source, folder = tree(tmp_path), tmp_path / "tree/class 0"
    for name in ("one", "two", "three"):
        (folder / name).symlink_to(tmp_path / "tree")
    refuse(config(tmp_path, source), "is a link to a folder that it lies in")
    for name in ("one", "two", "three"):
        (folder / name).unlink()
    (folder / "other").symlink_to(tmp_path / "tree/class 1")  # no circle: its images are there
    assert run(config(tmp_path, source)).info.samples == 16
    Path(os.fsdecode(os.fsencode(folder) + b"/\xff.png")).write_bytes(b"")
    refuse(config(tmp_path, source, output=str(tmp_path / "new")), "is not UTF-8; rename it")


def test_an_output_that_cannot_be_written_is_refused_before_the_images_are_looked_at(
    tmp_path: Path,
) -> None:
    """They may take hours."""
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="out is no folder; choose another place"):
        plan_prepare(config(tmp_path, {"kind": "folder", "path": f"{tmp_path}/none"}))


def test_what_was_kept_and_is_damaged_is_named(tmp_path: Path) -> None:
    """No traceback, and nothing is taken for something else."""
    source, kept = tree(tmp_path), tmp_path / "out/train/preparing"
    kept.mkdir(parents=True)
    (kept / "survey.json").write_text('{"identity": ')
    with pytest.raises(
        InputError, match=r"(?s)survey.json is damaged.*empty .*train to begin anew"
    ):
        plan_prepare(config(tmp_path, source))


def test_splits_must_agree(tmp_path: Path) -> None:
    trees = tree(tmp_path)
    both = {"train": trees, "test": idx(tmp_path)}
    refuse(config(tmp_path, trees, splits=both), r"image shapes \(C,H,W\) differ")
    for label in (0, 1):
        (tmp_path / f"small/class {label}").mkdir(parents=True)
        (tmp_path / f"small/class {label}/x.png").write_bytes(GOOD)
    both = {"train": trees, "test": {"kind": "folder", "path": str(tmp_path / "small")}}
    refuse(config(tmp_path, trees, splits=both), r"different classes \(class 2\)")
    refuse(config(tmp_path, trees, class_names=["a"]), "3 class folders, but class_names has 1")


def test_a_split_can_be_added_later_if_it_fits(tmp_path: Path) -> None:
    first = idx(tmp_path)
    run(config(tmp_path, first))
    (tmp_path / "2").mkdir()
    more = idx(tmp_path / "2", labels=LABELS // 2)
    splits = {"train": first, "test": more}
    test = prepare(plan_prepare(config(tmp_path, first, splits=splits)))["test"]
    assert test.info.classes == 3  # as in train, though its own labels end at 1
    (tmp_path / "3").mkdir()
    splits["other"] = idx(tmp_path / "3", labels=LABELS + 1)
    with pytest.raises(InputError, match="was prepared with 3 classes"):
        plan_prepare(config(tmp_path, first, splits=splits))


def test_the_largest_image_is_limited(tmp_path: Path) -> None:
    refuse(config(tmp_path, tree(tmp_path), max_pixels=29), "over 29 pixels")


def test_the_output_opens_by_its_url(tmp_path: Path) -> None:
    run(config(tmp_path, idx(tmp_path), output=f"file://{tmp_path}/out"))
    assert open_dataset(f"file://{tmp_path}/out/train").info.samples == 12
