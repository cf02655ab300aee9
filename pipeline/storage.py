"""Paths and URLs, one way: local folders, `s3://` and `gs://` through pyarrow filesystems.

Every file is written under a temporary name and then renamed, so a file under its final name is
whole. Nothing here runs a shell, follows environment rewrites or guesses a scheme.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import cast
from uuid import uuid4

from pyarrow import fs

from pipeline.errors import InputError

SCHEMES = ("file", "s3", "gs")
_TEMPORARY = re.compile(r"\.[0-9a-f]{8}\.tmp$")
_ATTEMPTS = 3
_FIRST_WAIT_SECONDS = 0.2


@dataclass(frozen=True)
class Location:
    """A file or folder on some filesystem; picklable, so that it travels to workers."""

    filesystem: fs.FileSystem
    path: str
    url: str  # as people read and write it

    def __truediv__(self, name: str) -> Location:
        """The location `name` below this folder."""
        return Location(self.filesystem, f"{self.path}/{name}", f"{self.url}/{name}")

    def __str__(self) -> str:
        """The URL or path, for messages."""
        return self.url

    def size(self) -> int | None:
        """Bytes of the file; None where no file is."""
        info = self.filesystem.get_file_info(self.path)
        return cast(int, info.size) if info.type == fs.FileType.File else None

    def is_folder(self) -> bool:
        """Whether a folder is here (object stores: whether any object lies below)."""
        return bool(self.filesystem.get_file_info(self.path).type == fs.FileType.Directory)

    def files(self, *, recursive: bool = False) -> list[str]:
        """Names (relative, "/"-separated, sorted) of the files below; empty for no folder."""
        return self._below(fs.FileType.File, recursive)

    def folders(self) -> list[str]:
        """Names (sorted) of the folders directly below; empty for no folder."""
        return self._below(fs.FileType.Directory, recursive=False)

    def sizes(self, names: Sequence[str]) -> list[int | None]:
        """Bytes of each named file below this folder; None for a missing one."""
        infos = self.filesystem.get_file_info([f"{self.path}/{name}" for name in names])
        return [info.size if info.type == fs.FileType.File else None for info in infos]

    def read_bytes(self) -> bytes:
        """The whole file. Raises FileNotFoundError or OSError."""
        with self.filesystem.open_input_file(self.path) as file:
            return cast(bytes, file.read())

    def read_range(self, offset: int, length: int) -> bytes:
        """`length` bytes from `offset` (fewer at the end of the file), with a few retries.

        Raises FileNotFoundError at once, OSError after the last attempt.
        """
        for attempt in range(_ATTEMPTS - 1):
            try:
                return self._read_range(offset, length)
            except FileNotFoundError:
                raise
            except OSError:
                time.sleep(_FIRST_WAIT_SECONDS * 4**attempt)
        return self._read_range(offset, length)

    def write_bytes(self, data: bytes | memoryview) -> None:
        """Write the file whole or not at all (temporary name, then rename).

        Raises InputError where the storage refuses: no space, no permission, no such bucket.
        """
        temporary = f"{self.path}.{uuid4().hex[:8]}.tmp"
        try:
            self.filesystem.create_dir(self.path.rpartition("/")[0], recursive=True)
            with self.filesystem.open_output_stream(temporary) as file:
                file.write(data)
            self.filesystem.move(temporary, self.path)
        except OSError as error:
            raise InputError(
                f"cannot write {self}: {error}; check free space and permissions"
            ) from error
        finally:
            with suppress(OSError):  # after the rename there is nothing left to delete
                self.filesystem.delete_file(temporary)

    def delete(self) -> None:
        """Delete the file if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path)

    def delete_folder(self) -> None:
        """Delete the folder and all below it, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.delete_dir(self.path)

    def _read_range(self, offset: int, length: int) -> bytes:
        with self.filesystem.open_input_file(self.path) as file:
            return cast(bytes, file.read_at(length, offset))

    def _below(self, kind: fs.FileType, recursive: bool) -> list[str]:
        selector = fs.FileSelector(self.path, recursive=recursive, allow_not_found=True)
        found = self.filesystem.get_file_info(selector)
        prefix = len(self.path.rstrip("/")) + 1
        return sorted(f.path[prefix:] for f in found if f.type == kind)


def is_temporary(name: str) -> bool:
    """Whether a file of this name is what `write_bytes` left when its process was killed."""
    return _TEMPORARY.search(name) is not None


def open_storage(url_or_path: str) -> Location:
    """Location of a local path, `file://`, `s3://bucket/…` or `gs://bucket/…`.

    Raises InputError for another scheme or a store that cannot be reached.
    """
    scheme, separator, _ = url_or_path.partition("://")
    if not separator:
        path = os.path.abspath(os.path.expanduser(url_or_path))
        return Location(fs.LocalFileSystem(), path, path)
    if scheme not in SCHEMES:
        raise InputError(
            f"{url_or_path}: unknown storage scheme {scheme!r}; "
            f"use a local path or one of {', '.join(s + '://' for s in SCHEMES)}"
        )
    try:
        filesystem, path = fs.FileSystem.from_uri(url_or_path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot open {url_or_path}: {error}; check the address, network and credentials"
        ) from error
    return Location(filesystem, path.rstrip("/"), url_or_path.rstrip("/"))
