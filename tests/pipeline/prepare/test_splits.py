"""Packing and indexing: sources keep their pixels and labels, bad input leaves no trace."""

import gzip
import io
import itertools
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.prepare import PrepareConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.decode import decode_image, encode_png
from pipeline.data.stream import iterate_once
from pipeline.errors import InputError
from pipeline.prepare.set_picture import encoded_sizes, set_picture
from pipeline.prepare.splits import plan_prepare, prepare
from pipeline.storage import Location

CIFAR10 = Path(__file__).parents[4] / "shared" / "data" / "cifar10"
RNG = np.random.Generator(np.random.Philox(7))
GREY = RNG.integers(0, 256, (12, 1, 6, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (12, 3, 6, 5), np.uint8)
LABELS = np.arange(12) % 3


def config(folder: Path, train: dict[str, Any], **changes: Any) -> PrepareConfig:
    given = {
        "output": str(folder / "out"),
        "splits": {"train": train},
        "shard_samples": 5,
        "block_samples": 2,
        "max_bad_fraction": 0.5,
    }
    return PrepareConfig.model_validate(given | changes)


def run(prepared: PrepareConfig) -> ShardedDataset:
    return prepare(plan_prepare(prepared))["train"]


def contents(dataset: ShardedDataset) -> dict[bytes, int]:
    """Pixels -> label of every sample, read back through the stream."""
    found = {}
    for batch in iterate_once(dataset, batch_size=5):
        labels = batch.labels.tolist() if batch.labels is not None else [-1] * len(batch.keys)
        found |= {i.numpy().tobytes(): k for i, k in zip(batch.images, labels, strict=True)}
    return found


def expected(images: np.ndarray, labels: np.ndarray | None = LABELS) -> dict[bytes, int]:
    numbers = [-1] * len(images) if labels is None else labels.tolist()
    return {image.tobytes(): label for image, label in zip(images, numbers, strict=True)}


def picture(image: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    shown = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    shown.convert(mode or shown.mode).save(buffer, format=kind, lossless=True)
    return buffer.getvalue()


def idx(folder: Path, images: np.ndarray = GREY, labels: np.ndarray = LABELS) -> dict[str, Any]:
    head = struct.pack(">4I", 0x803, len(images), *images.shape[2:])
    (folder / "images.gz").write_bytes(gzip.compress(head + images.tobytes()))
    (folder / "labels").write_bytes(struct.pack(">2I", 0x801, len(labels)) + bytes(labels.tolist()))
    return {"kind": "idx", "images": str(folder / "images.gz"), "labels": str(folder / "labels")}


def tree(folder: Path, images: np.ndarray = COLOUR) -> dict[str, Any]:
    for n, (image, label) in enumerate(zip(images, LABELS, strict=True)):
        place = folder / "tree" / f"class {label}" / f"part{n % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"img.{n}.png").write_bytes(encode_png(image))
    (folder / "tree" / ".hidden").write_bytes(b"")
    return {"kind": "folder", "path": str(folder / "tree")}


def parquet(folder: Path, structs: bool = False, **columns: Any) -> dict[str, Any]:
    encoded: list[Any] = [picture(image, "WEBP") for image in COLOUR]
    if structs:
        encoded = [{"bytes": data, "path": "x"} for data in encoded]
    (folder / "parquet").mkdir(exist_ok=True)
    for part in range(2):
        rows = slice(6 * part, 6 * part + 6)
        table = pa.table({"image": encoded[rows], "label": LABELS[rows].astype(np.uint8)} | columns)
        pq.write_table(table, folder / "parquet" / f"{part}.parquet", row_group_size=4)
    return {"kind": "parquet", "path": str(folder / "parquet")}


def tars(folder: Path, members: list[tuple[str, bytes]] | None = None) -> dict[str, Any]:
    (folder / "tars").mkdir(exist_ok=True)
    if members is None:
        members = []
        for n, image in enumerate(COLOUR):
            label = json.dumps({"label": int(LABELS[n])}).encode()
            members += [(f"k/{n:03d}.json", label), (f"k/{n:03d}.png", encode_png(image))]
    half = len(members) // 4 * 2
    for part, own in enumerate((members[:half], members[half:])):
        with tarfile.open(folder / "tars" / f"{part}.tar", "w:") as archive:
            for name, content in own:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return {"kind": "webdataset", "path": str(folder / "tars")}


# --- each source keeps its pixels and labels -----------------------------------------------------


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


# --- the output ----------------------------------------------------------------------------------


def test_the_samples_are_shuffled_once_the_same_way_each_time(tmp_path: Path) -> None:
    source = tree(tmp_path)
    one = run(config(tmp_path, source))
    two = run(config(tmp_path, source, output=str(tmp_path / "two")))
    other = run(config(tmp_path, source, output=str(tmp_path / "other"), seed=1))
    assert [row.sha256 for row in one.rows] == [row.sha256 for row in two.rows]
    assert [row.sha256 for row in one.rows] != [row.sha256 for row in other.rows]
    labels = list(contents(one).values())
    assert labels != sorted(labels)


def test_small_pools_lose_and_repeat_nothing(tmp_path: Path) -> None:
    dataset = run(config(tmp_path, parquet(tmp_path), shuffle_bytes=1))
    assert contents(dataset) == expected(COLOUR)
    assert dataset.info.samples == 12


def test_shards_end_at_the_sample_or_the_byte_limit(tmp_path: Path) -> None:
    source = tree(tmp_path)
    assert [row.samples for row in run(config(tmp_path, source)).rows] == [5, 5, 2]
    small = config(tmp_path, source, output=str(tmp_path / "small"), shard_bytes=1)
    assert [row.samples for row in run(small).rows] == [1] * 12


def test_running_again_changes_nothing(tmp_path: Path) -> None:
    prepared = config(tmp_path, idx(tmp_path))
    run(prepared)
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}
    plan = plan_prepare(prepared)
    assert plan.text() == "train: finished already, unchanged"
    assert contents(prepare(plan)["train"]) == expected(GREY)
    assert {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")} == before


def test_another_configuration_needs_another_output_or_overwrite(tmp_path: Path) -> None:
    source = idx(tmp_path)
    run(config(tmp_path, source))
    with pytest.raises(InputError, match=r"another configuration.*overwrite=true"):
        plan_prepare(config(tmp_path, source, seed=1))
    dataset = run(config(tmp_path, source, seed=1, shard_samples=12, overwrite=True))
    assert contents(dataset) == expected(GREY)
    assert sorted(p.name for p in (tmp_path / "out/train").glob("*.tar")) == ["shard-00000-000.tar"]


def test_a_damaged_finished_set_is_noticed(tmp_path: Path) -> None:
    prepared = config(tmp_path, idx(tmp_path))
    run(prepared)
    (tmp_path / "out/train/shard-00000-001.tar").unlink()
    with pytest.raises(InputError, match=r"shard-00000-001.tar \(missing\).*overwrite=true"):
        plan_prepare(prepared)


def test_a_folder_of_somebody_else_is_not_written_to(tmp_path: Path) -> None:
    (tmp_path / "out/train").mkdir(parents=True)
    (tmp_path / "out/train/shard-000000.tar").write_bytes(b"precious")
    for overwrite in (False, True):
        with pytest.raises(InputError, match="not empty and holds no prepared set"):
            plan_prepare(config(tmp_path, idx(tmp_path), overwrite=overwrite))
    assert (tmp_path / "out/train/shard-000000.tar").read_bytes() == b"precious"


class Killed(BaseException):
    """Ends a run where SIGKILL would: nothing of ours catches it."""


@pytest.mark.parametrize("fatal", range(1, 9))
def test_a_run_that_was_killed_is_done_again_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fatal: int
) -> None:
    """It ends half-way through its n-th file; the next run completes the set."""
    prepared = config(tmp_path, idx(tmp_path))
    written = itertools.count(1)
    write_bytes = Location.write_bytes

    def dying(self: Location, data: bytes) -> None:
        if next(written) == fatal:
            Path(self.path).parent.mkdir(parents=True, exist_ok=True)
            Path(f"{self.path}.0badf00d.tmp").write_bytes(bytes(data)[: len(data) // 2])
            raise Killed
        write_bytes(self, data)

    monkeypatch.setattr(Location, "write_bytes", dying)
    with pytest.raises(Killed):
        run(prepared)
    monkeypatch.undo()
    assert contents(run(prepared)) == expected(GREY)
    assert sorted(p.name for p in (tmp_path / "out/train").iterdir()) == [
        "dataset.json", "dataset.png", "manifest.parquet",
        "shard-00000-000.tar", "shard-00000-001.tar", "shard-00000-002.tar",
    ]  # fmt: skip


@pytest.mark.parametrize("labelled", [True, False])
def test_the_picture_is_drawn_the_same_way_each_time(tmp_path: Path, labelled: bool) -> None:
    source = tree(tmp_path) | {"labelled": labelled}
    dataset = run(config(tmp_path, source))
    drawn = (tmp_path / "out/train/dataset.png").read_bytes()
    assert Image.open(io.BytesIO(drawn)).size == (1500, 750)
    assert set_picture(dataset) == drawn
    sizes = [path.stat().st_size for path in (tmp_path / "tree").rglob("*.png")]
    assert sorted(encoded_sizes(dataset)) == sorted(sizes)


# --- bad input -----------------------------------------------------------------------------------


def refuse(prepared: PrepareConfig, message: str) -> None:
    """The configuration is refused with `message`, and nothing is left on the disk."""
    with pytest.raises(InputError, match=message):
        prepare(plan_prepare(prepared))
    assert not Path(prepared.output).exists()


def test_missing_and_empty_inputs(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for kind, nothing in [("folder", "is not a folder"), ("parquet", "not a readable Parquet")]:
        refuse(config(tmp_path, {"kind": kind, "path": f"{tmp_path}/none"}), nothing)
    for kind, empty in [
        ("folder", "no files"),
        ("parquet", "no .parquet"),
        ("webdataset", "no .tar"),
    ]:
        refuse(config(tmp_path, {"kind": kind, "path": f"{tmp_path}/empty"}), empty)
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
    source = tars(tmp_path, [*FIRST, ("b.cls", b"0"), ("b.png", b"?")])
    given = config(tmp_path, source, on_bad_image="skip", max_bad_fraction=0.4)
    refuse(given, "1 of 2 images are unusable")


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


GOOD = encode_png(COLOUR[0])
FIRST = [("a.cls", b"0"), ("a.png", GOOD)]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([("b.cls", b"0"), ("b.txt", b"")], "b: no image"),
        ([("b.png", GOOD), ("b.txt", b"")], "b: bad label: neither"),
        ([("b.cls", b"x"), ("b.png", GOOD)], "b: bad label"),
        ([("b.cls", b"3"), ("b.png", GOOD)], r"3 is outside 0\.\.2"),
        ([("b.cls", b"0"), ("b.png", b"?")], "b: bad image"),
    ],
)
def test_bad_samples_in_tars_are_named_or_become_holes(
    tmp_path: Path, second: list[tuple[str, bytes]], message: str
) -> None:
    source, names = tars(tmp_path, FIRST + second), {"class_names": ["x", "y", "z"]}
    refuse(config(tmp_path, source, **names), message)
    dataset = run(config(tmp_path, source, on_bad_image="skip", **names))
    batches = list(iterate_once(dataset, batch_size=9, on_bad_sample="skip", max_bad_fraction=1))
    assert sorted(v for b in batches for v in b.valid.tolist()) == [False, True]
    assert sum(dataset.label_counts) == 1


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (FIRST * 2, "the key a occurs twice"),
        ([("../a.cls", b"0"), ("../a.png", GOOD), ("b.cls", b"0"), ("b.png", GOOD)], "unsafe key"),
        ([("a", b"0"), ("b", b"0"), ("c", b"0"), ("d", b"0")], "none of 0 images is usable"),
    ],
)
def test_tars_that_cannot_be_indexed(
    tmp_path: Path, members: list[tuple[str, bytes]], message: str
) -> None:
    refuse(config(tmp_path, tars(tmp_path, members), on_bad_image="skip"), message)


def test_tars_are_not_converted(tmp_path: Path) -> None:
    refuse(config(tmp_path, tars(tmp_path), convert="L"), "indexed shards cannot be converted")


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
