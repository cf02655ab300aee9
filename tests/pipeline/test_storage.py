"""Paths and URLs: one way to read, whole files or none when written."""

import pickle
from pathlib import Path

import pytest

from pipeline.errors import InputError
from pipeline.storage import Location, open_storage


def test_paths_and_file_urls_are_the_same_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").write_bytes(b"0123456789")
    for url in ("x", str(tmp_path / "x"), f"file://{tmp_path}/x"):
        place = open_storage(url)
        assert place.read_bytes() == b"0123456789"
        assert place.read_range(3, 4) == b"3456"
        assert place.read_range(8, 40) == b"89"
        assert place.size() == 10


def test_folders_and_files_below_are_listed_by_name(tmp_path: Path) -> None:
    place = open_storage(str(tmp_path / "new"))
    assert place.files() == place.folders() == []
    assert not place.is_folder()
    for name in ("b/2", "a", "b/1"):
        (place / name).write_bytes(name.encode())
    assert place.is_folder()
    assert place.files() == ["a"]
    assert place.folders() == ["b"]
    assert place.files(recursive=True) == ["a", "b/1", "b/2"]
    assert place.sizes(["a", "c", "b"]) == [1, None, None]
    place.delete_folder()
    place.delete_folder()
    assert not place.is_folder()


def test_a_written_file_replaces_the_old_one_and_leaves_no_temporary_name(tmp_path: Path) -> None:
    place = open_storage(str(tmp_path)) / "x"
    place.write_bytes(b"old, longer")
    place.write_bytes(memoryview(b"new"))
    assert place.read_bytes() == b"new"
    assert [p.name for p in tmp_path.iterdir()] == ["x"]
    place.delete()
    place.delete()
    assert place.size() is None


def test_a_refused_write_names_the_file_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InputError, match=r"cannot write .*file/below.*check free space"):
        (open_storage(str(tmp_path)) / "file" / "below").write_bytes(b"x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "full").write_bytes(b"")
    with pytest.raises(InputError, match="cannot write"):
        (open_storage(str(tmp_path)) / "folder").write_bytes(b"x")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.parametrize(
    "url", ["pipe://cat /etc/passwd", "http://host/x", "hdfs://host/x", "://x"]
)
def test_unknown_schemes_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="unknown storage scheme"):
        open_storage(url)


def test_a_missing_file_is_no_reason_to_try_again(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        open_storage(str(tmp_path / "none")).read_range(0, 1)


def test_an_object_store_is_named_without_touching_the_network() -> None:
    place = open_storage("gs://bucket/folder/") / "x"
    assert str(place) == "gs://bucket/folder/x"
    assert place.path == "bucket/folder/x"


def test_a_location_travels_to_workers(tmp_path: Path) -> None:
    (tmp_path / "x 1%20?#").write_bytes(b"1")
    for folder in (str(tmp_path), f"file://{tmp_path}"):
        place = open_storage(folder) / "x 1%20?#"
        copy: Location = pickle.loads(pickle.dumps(place))  # noqa: S301
        assert copy.read_bytes() == b"1"
        assert str(copy) == str(place)
