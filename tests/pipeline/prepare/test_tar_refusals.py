"""Tars that cannot be indexed as they are: named, or holes where that was asked for."""

from pathlib import Path

import pytest

from packing import GOOD, config, refuse, run, tars
from pipeline.data.stream import iterate_once

FIRST = [("a.cls", b"0"), ("a.png", GOOD)]


@pytest.mark.parametrize(
    ("second", "message"),
    [
        ([("b.cls", b"0"), ("b.txt", b"")], "b: no image"),
        ([("b.png", GOOD), ("b.txt", b"")], "b: bad label: neither"),
        ([("b.cls", b"x"), ("b.png", GOOD)], "b: bad label"),
        ([("b.json", b"[" * 100_000), ("b.png", GOOD)], "b: bad label"),
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


def test_too_many_holes_are_refused(tmp_path: Path) -> None:
    source = tars(tmp_path, [*FIRST, ("b.cls", b"0"), ("b.png", b"?")])
    given = config(tmp_path, source, on_bad_image="skip", max_bad_fraction=0.4)
    refuse(given, "1 of 2 images are unusable")


def test_tars_are_not_converted(tmp_path: Path) -> None:
    refuse(config(tmp_path, tars(tmp_path), convert="L"), "indexed shards cannot be converted")
