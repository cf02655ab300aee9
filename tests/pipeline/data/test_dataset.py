"""Opening a dataset: everything that can be wrong with it is said before any training."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.errors import InputError
from pipeline.parquet_file import parquet_bytes

MakeDataset = Callable[..., ShardedDataset]


@pytest.fixture
def folder(make_dataset: MakeDataset, tmp_path: Path) -> Path:
    make_dataset([6, 3])
    return tmp_path / "set"


def edit(folder: Path, **changes: object) -> None:
    path = folder / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_the_manifest_survives_the_round_trip(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([6, 3], block_samples=4)
    assert dataset.block_samples.tolist() == [4, 2, 3]
    assert [row.samples for row in dataset.rows] == [6, 3]
    assert dataset.info.shape == (1, 4, 4)
    assert dataset.info.class_names == ("a", "b", "c")
    assert dataset.label_counts == (3, 3, 3)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "dataset.json").unlink(), r"tar shards but no dataset.json.*kind: webdata"),
        (lambda f: (f / "dataset.json").write_text("{"), "is not JSON"),
        (lambda f: (f / "dataset.json").write_text("[]"), "format version None"),
        (lambda f: edit(f, format_version=99), "format version 99, this program reads 1"),
        (lambda f: edit(f, shape="wide"), "is damaged"),
        (lambda f: edit(f, samples=8), "disagree on the number of samples"),
        (lambda f: (f / "manifest.parquet").unlink(), "manifest.parquet is missing"),
        (lambda f: (f / "manifest.parquet").write_bytes(b"PAR1"), "SHA-256 differs"),
        (lambda f: (f / "s001.tar").unlink(), r"1 of 2 shards.*s001.tar \(missing\)"),
        (lambda f: (f / "s000.tar").write_bytes(b"x" * 700), r"s000.tar \(700 of \d+ bytes\)"),
    ],
)
def test_what_is_wrong_is_named_with_its_remedy(
    folder: Path, harm: Callable[[Path], object], message: str
) -> None:
    harm(folder)
    with pytest.raises(InputError, match=message) as caught:
        open_dataset(str(folder))
    assert any(word in str(caught.value) for word in ("prepare", "restore", "index"))


def rewrite(folder: Path, changes: dict[str, object], block: bool = False) -> None:
    """Another manifest, of the first shard or of its first block, with a digest that fits."""
    place = folder / "manifest.parquet"
    table = pq.read_table(place)
    rows = table.to_pylist()
    (rows[0]["blocks"][0] if block else rows[0]).update(changes)
    data = parquet_bytes(pa.Table.from_pylist(rows, schema=table.schema))
    place.write_bytes(data)
    edit(folder, manifest_sha256=hashlib.sha256(data).hexdigest())


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: edit(f, classes=10**9),
        lambda f: edit(f, classes=2),
        lambda f: edit(f, shape=[1, 0, 4]),
        lambda f: edit(f, shape=[1, 10**6, 10**6]),
        lambda f: edit(f, levels=0),
        lambda f: (f / "dataset.json").write_text("[" * 100_000),
        lambda f: rewrite(f, {"bytes": 2**60}, block=True),
        lambda f: rewrite(f, {"bytes": -1}, block=True),
        lambda f: rewrite(f, {"offset": -512}, block=True),
        lambda f: rewrite(f, {"samples": -3}, block=True),
        lambda f: rewrite(f, {"samples": 2**30}, block=True),
        lambda f: rewrite(f, {"blocks": None}),
        lambda f: rewrite(f, {"shard": None}),
        lambda f: rewrite(f, {"shard": "../set/s000.tar"}),
        lambda f: rewrite(f, {"label_counts": [(99, 6)]}),
        lambda f: rewrite(f, {"label_counts": [(0, 2**60)]}),
    ],
)
def test_what_cannot_be_true_is_refused_before_it_is_believed(
    folder: Path, harm: Callable[[Path], object]
) -> None:
    """A set from elsewhere: not a terabyte is taken for a number that somebody wrote."""
    harm(folder)
    with pytest.raises(InputError):
        open_dataset(str(folder))


def test_a_missing_folder_and_a_folder_above_the_splits_are_told_apart(
    folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_dataset(str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="its splits are set: name one of them"):
        open_dataset(str(folder.parent))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"has no dataset.json; run jobs.prepare"):
        open_dataset(str(tmp_path / "empty"))


def test_temporary_files_of_a_killed_run_are_ignored(folder: Path) -> None:
    (folder / "shard-000009.tar.0badf00d.tmp").write_bytes(b"half")
    assert open_dataset(str(folder)).info.samples == 9
