"""The packed set: shards, order, continuing, and what is not overwritten."""

import io
import itertools
from pathlib import Path

import pytest
from PIL import Image

from packing import COLOUR, GREY, config, contents, expected, idx, parquet, run, tree
from pipeline.errors import InputError
from pipeline.prepare.set_picture import encoded_sizes, set_picture
from pipeline.prepare.splits import plan_prepare, prepare
from pipeline.storage import Location


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
