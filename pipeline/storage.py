"""Paths and URLs, one way: local folders, `s3://` and `gs://` through pyarrow filesystems.

A file under its final name is whole: on a disk it is written under a temporary name and renamed,
and an object store shows an object when its upload is complete. Nothing here runs a shell or
guesses a scheme.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import cast
from uuid import uuid4

from pyarrow import fs

from pipeline.errors import InputError
from pipeline.object_store import open_bucket

SCHEMES = ("file", "s3", "gs")
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp$")
_DISK_ATTEMPTS = 3
_FIRST_WAIT_SECONDS = 0.2
_COPY_BYTES = 8 * 2**20


@dataclass(frozen=True)
class Location:
    """A file or folder on some filesystem; picklable, so that it travels to workers.

    What fails for another reason than a missing file raises InputError, with what to check.
    """

    filesystem: fs.FileSystem
    path: str
    url: str  # as people read and write it

    def __truediv__(self, name: str) -> Location:
        """The location `name` below this folder."""
        return Location(self.filesystem, f"{self.path}/{name}", f"{self.url}/{name}")

    def __str__(self) -> str:
        """The URL or path, for messages."""
        return self.url

    def __reduce__(self) -> tuple[Callable[[str, str], Location], tuple[str, str]]:
        """Travel without the client: credentials stay at home, the other process uses its own."""
        return _reopened, (self.path, self.url)

    @property
    def is_local(self) -> bool:
        """Whether this is on a disk of this machine (or mounted like one)."""
        return isinstance(self.filesystem, fs.LocalFileSystem)

    def size(self) -> int | None:
        """Bytes of the file; None where no file is."""
        return self._sizes_of([self.path])[0]

    def version(self) -> tuple[int, int] | None:
        """Bytes and time of last change (ns) of the file: other content has another version.

        None where no file is. Object stores keep the time to the second.
        """
        with self._reached():
            info = self.filesystem.get_file_info(self.path)
        return (info.size, info.mtime_ns) if info.type == fs.FileType.File else None

    def is_folder(self) -> bool:
        """Whether a folder is here (object stores: whether any object lies below)."""
        with self._reached():
            return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.Directory)

    def files(self, *, recursive: bool = False) -> list[str]:
        """Names (relative, "/"-separated, sorted) of the files below; empty for no folder."""
        return list(self.file_sizes(recursive=recursive))

    def file_sizes(self, *, recursive: bool = False) -> dict[str, int]:
        """Names, as `files` has them, and bytes of the files below: one listing."""
        return self._below(fs.FileType.File, recursive)

    def folders(self) -> list[str]:
        """Names (sorted) of the folders directly below; empty for no folder."""
        return list(self._below(fs.FileType.Directory, recursive=False))

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of each named file below this folder; None for a missing one."""
        return self._sizes_of([f"{self.path}/{name}" for name in names])

    def read_bytes(self) -> bytes:
        """The whole file. Raises FileNotFoundError where there is none."""
        with self._reached(), self.filesystem.open_input_file(self.path) as file:
            return cast(bytes, file.read())

    def read_range(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` (fewer at the end of the file).

        Tried anew a few times, with growing pauses: here on (network) disks, and by the client of
        an object store itself. Raises FileNotFoundError at once, OSError after the last attempt.
        """
        for attempt in range(_DISK_ATTEMPTS - 1 if self.is_local else 0):
            try:
                return self._read_range(offset, length)
            except FileNotFoundError:
                raise
            except OSError:
                time.sleep(_FIRST_WAIT_SECONDS * 4**attempt)
        return self._read_range(offset, length)

    def check_writable(self) -> None:
        """Raise InputError where this folder of a disk can be neither made nor written into.

        A bucket tells that by the first write only.
        """
        place = Path(self.path)
        while self.is_local and not os.path.lexists(place):
            place = place.parent
        if self.is_local and not (place.is_dir() and os.access(place, os.W_OK | os.X_OK)):
            why = "may not be written by this user" if place.is_dir() else "is no folder"
            raise InputError(f"{self} cannot be written: {place} {why}; choose another place")

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Write the file whole or not at all.

        Raises InputError where the storage refuses: no space, no permission, no such bucket.
        """
        self._write_whole([data])

    def write_file(self, source: Path) -> None:
        """Copy a file of this machine here, whole or not at all; piece by piece: it may be large.

        Raises InputError as `write_bytes` does.
        """
        with source.open("rb") as file:
            self._write_whole(iter(lambda: file.read(_COPY_BYTES), b""))

    def _write_whole(self, pieces: Iterable[bytes | memoryview]) -> None:
        try:
            if self.is_local:
                self._write_and_rename(pieces)
            else:
                self._write(self.path, pieces)
        except OSError as error:
            raise InputError(
                f"cannot write {self}: {error}; check free space, or bucket, and permissions"
            ) from error

    def delete(self) -> None:
        """Delete the file if it is there."""
        with self._reached(), suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path)

    def delete_folder(self) -> None:
        """Delete the folder and all below it, if it is there."""
        with self._reached(), suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path)

    def _write(self, path: str, pieces: Iterable[bytes | memoryview]) -> None:
        with self.filesystem.open_output_stream(path) as file:
            for piece in pieces:
                file.write(piece)

    def _write_and_rename(self, pieces: Iterable[bytes | memoryview]) -> None:
        temporary = f"{self.path}.{uuid4().hex[:8]}.tmp"
        try:
            self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=True)
            self._write(temporary, pieces)
            self.filesystem.move(temporary, self.path)
        finally:
            with suppress(OSError):  # after the rename there is nothing left to delete
                self.filesystem.delete_file(temporary)

    @contextmanager
    def _reached(self) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InputError(
                f"cannot reach {self}: {error}; "
                "check the address, network, permissions and credentials"
            ) from error

    def _sizes_of(self, paths: list[str]) -> list[int | None]:
        with self._reached():
            infos = self.filesystem.get_file_info(paths)
        return [info.size if info.type == fs.FileType.File else None for info in infos]

    def _read_range(self, offset: int, length: int) -> bytes:
        with self.filesystem.open_input_file(self.path) as file:
            return cast(bytes, file.read_at(length, offset))

    def _below(self, kind: fs.FileType, recursive: bool) -> dict[str, int]:
        selector = fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        with self._reached():
            found = self.filesystem.get_file_info(selector)
        prefix = len(self.path.rstrip("/")) + 1
        return dict(sorted((f.path[prefix:], f.size) for f in found if f.type == kind))


def _reopened(path: str, url: str) -> Location:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme == "file":
        return Location(fs.LocalFileSystem(), path, url)
    return Location(open_bucket(f"{scheme}://{path.partition('/')[0]}")[0], path, url)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is what `write_bytes` left when its process was killed."""
    return _TEMPORARY.search(name) is not None


def open_storage(url_or_path: str) -> Location:
    """Location of a local path, `file://`, `s3://bucket/…` or `gs://bucket/…`.

    Raises InputError for another scheme, or as `open_bucket`.
    """
    scheme, separator, _ = url_or_path.partition("://")
    if separator and scheme not in SCHEMES:
        raise InputError(
            f"{url_or_path}: unknown storage scheme {scheme!r}; "
            f"use a local path or one of {', '.join(s + '://' for s in SCHEMES)}"
        )
    if not separator:
        path = os.path.abspath(os.path.expanduser(url_or_path))
        return Location(fs.LocalFileSystem(), path, path)
    url = url_or_path.rstrip("/")
    if scheme != "file":
        return Location(*open_bucket(url), url)
    try:
        filesystem, path = fs.FileSystem.from_uri(url)
    except ValueError as error:
        raise InputError(f"{url}: {error}; write file:///folder") from error
    return Location(filesystem, path, url)
