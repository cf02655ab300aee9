"""Locations on a real S3 server: the same behaviour as on a disk, and patience with the network."""

import pickle
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.storage import Location, open_storage
from s3_server import s3_server


def test_folders_and_files_below_are_listed_by_name(bucket: str) -> None:
    """The same story as on a disk, in tests/pipeline/test_storage.py."""
    place = open_storage(bucket) / "new"
    assert place.files() == place.folders() == []
    assert not place.is_folder()
    for name in ("b/2", "a", "b/1"):
        (place / name).write_bytes(name.encode())
    assert place.is_folder()
    assert place.files() == ["a"]
    assert place.folders() == ["b"]
    assert place.files(recursive=True) == ["a", "b/1", "b/2"]
    assert place.sizes(["a", "c", "b"]) == [1, None, None]
    assert (place / "b/1").read_bytes() == b"b/1"
    place.delete_folder()
    place.delete_folder()
    assert not place.is_folder()


def test_ranges_overwriting_and_deleting(bucket: str) -> None:
    place = open_storage(f"{bucket}/x")
    with pytest.raises(FileNotFoundError):
        place.read_bytes()
    with pytest.raises(FileNotFoundError):
        place.read_range(0, 1)
    place.write_bytes(b"old, longer than new")
    place.write_bytes(memoryview(b"0123456789"))
    assert place.size() == 10
    assert place.read_range(3, 4) == b"3456"
    assert place.read_range(8, 40) == b"89"
    place.write_bytes(b"")
    assert place.size() == 0
    place.delete()
    place.delete()
    assert place.size() is None


def test_a_checkpoint_without_its_commit_is_gone_and_so_is_a_deleted_one(bucket: str) -> None:
    """Folders are what remains when their last object goes; `delete_folder` takes them too."""
    run = open_storage(f"{bucket}/run")
    for step in (1, 2):
        (run / f"checkpoint_{step}" / "deepspeed/state").write_bytes(b"x")
        (run / f"checkpoint_{step}" / "checkpoint.json").write_bytes(b"{}")
    (run / "checkpoint_1" / "checkpoint.json").delete()
    assert (run / "checkpoint_1" / "checkpoint.json").size() is None
    (run / "checkpoint_1").delete_folder()
    assert run.folders() == ["checkpoint_2"]


def test_a_location_travels_without_credentials(bucket: str) -> None:
    place = open_storage(bucket) / "x #1?%20"
    place.write_bytes(b"1")
    data = pickle.dumps(place)
    assert b"hunter2" not in data
    copy: Location = pickle.loads(data)  # noqa: S301
    assert copy.read_bytes() == b"1"


# --- what goes over the wire ---------------------------------------------------------------------


def test_a_small_file_is_one_put(bucket: str, faulty: Any) -> None:
    """No temporary name, copy and delete: a put shows all or nothing."""
    (open_storage(bucket) / "folder/x").write_bytes(b"x" * 100_000)
    assert faulty.requests == ["PUT"]


def test_a_large_file_comes_back_whole(bucket: str, faulty: Any) -> None:
    """Above the size of a part it becomes several uploads and a commit."""
    data = bytes(range(256)) * 50_000
    place = open_storage(bucket) / "x"
    place.write_bytes(data)
    assert place.size() == len(data)
    assert place.read_bytes() == data
    assert faulty.requests.count("PUT") > 1


def test_ranges_are_read_in_parallel(bucket: str, faulty: Any) -> None:
    place = open_storage(bucket) / "x"
    place.write_bytes(bytes(range(200)))
    with ThreadPoolExecutor(8) as pool:
        pieces = list(pool.map(lambda i: place.read_range(10 * i, 10), range(20)))
    assert b"".join(pieces) == bytes(range(200))
    assert faulty.most_at_once > 1


# --- faults --------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", ["503", "reset", "cut"])
def test_two_failures_are_survived_when_reading(bucket: str, faulty: Any, fault: str) -> None:
    place = open_storage(bucket) / "x"
    place.write_bytes(b"0123456789")
    faulty.faults = [("GET", fault)] * 2
    assert place.read_range(2, 6) == b"234567"
    assert faulty.requests == ["PUT", "HEAD", f"GET {fault}", f"GET {fault}", "GET"]


@pytest.mark.parametrize("fault", ["503", "reset"])
def test_two_failures_are_survived_when_writing(bucket: str, faulty: Any, fault: str) -> None:
    faulty.faults = [("PUT", fault)] * 2
    place = open_storage(bucket) / "x"
    place.write_bytes(b"0123456789")
    assert faulty.requests == [f"PUT {fault}", f"PUT {fault}", "PUT"]
    assert place.read_bytes() == b"0123456789"


def test_a_silent_connection_is_given_up_and_replaced(bucket: str, faulty: Any) -> None:
    place = open_storage(bucket) / "x"
    place.write_bytes(b"0123456789")
    faulty.faults = [("GET", "stall")]
    assert place.read_range(0, 10) == b"0123456789"
    assert faulty.requests[-2:] == ["GET stall", "GET"]


@pytest.mark.slow
def test_a_store_that_stays_down_ends_in_one_clear_error(bucket: str, faulty: Any) -> None:
    place = open_storage(bucket) / "x"
    place.write_bytes(b"0123456789")
    faulty.faults = [("GET", "503")] * 99
    with pytest.raises(OSError, match="HTTP status 503"):
        place.read_range(0, 10)
    with pytest.raises(InputError, match=r"cannot reach s3://.*check the address, network"):
        place.read_bytes()
    faulty.faults = [("PUT", "503")] * 99
    with pytest.raises(InputError, match="cannot write s3://"):
        place.write_bytes(b"")


# --- what a person may get wrong -----------------------------------------------------------------


def test_a_missing_bucket_is_named(bucket: str) -> None:
    missing = open_storage("s3://vdm-nowhere/folder")
    assert not missing.is_folder()
    with pytest.raises(InputError, match=r"cannot write s3://vdm-nowhere/folder/x.*bucket does"):
        (missing / "x").write_bytes(b"x")


def test_wrong_credentials_are_refused_without_showing_them(
    tmp_path: Path, s3_environment: Callable[[str], None]
) -> None:
    with s3_server(tmp_path / "log", INITIAL_NO_AUTH_ACTION_COUNT="0") as (endpoint, _):
        s3_environment(endpoint)
        place = open_storage("s3://vdm-test/folder")
        for action in (place.size, place.files, place.read_bytes, place.delete_folder):
            with pytest.raises(InputError, match=r"cannot reach s3://.*credentials") as caught:
                action()
            assert "hunter2" not in str(caught.value)
        with pytest.raises(InputError, match="cannot write") as caught:
            place.write_bytes(b"x")
        assert "hunter2" not in str(caught.value)


@pytest.mark.slow
def test_an_endpoint_where_nobody_answers(s3_environment: Callable[[str], None]) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))  # bound, but not listening
        s3_environment(f"http://127.0.0.1:{closed.getsockname()[1]}")
        with pytest.raises(InputError, match=r"cannot reach s3://vdm-test/x: .*the address"):
            open_storage("s3://vdm-test/x").size()


@pytest.mark.parametrize(
    "url", ["s3://AKID:hunter2@vdm-test/x", "s3://vdm-test/x?secret_key=hunter2", "s3:///x"]
)
def test_urls_hold_no_settings_or_credentials(url: str) -> None:
    with pytest.raises(InputError) as caught:
        open_storage(url)
    assert "hunter2" not in str(caught.value)
