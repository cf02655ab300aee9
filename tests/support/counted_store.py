"""A storage that counts what an object store would be asked: requests and bytes."""

from dataclasses import dataclass, field, replace
from threading import Lock
from typing import Any, BinaryIO

import pyarrow as pa
from pyarrow import fs

from pipeline.storage import Location

PAGE = 1000  # names that an object store lists for one request


@dataclass
class Requests:
    """Looks at single files, pages of listings, reads, writes and deletions, and their bytes."""

    looks: int = 0
    pages: int = 0
    reads: int = 0
    writes: int = 0
    deletes: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    _lock: Lock = field(default_factory=Lock, repr=False, compare=False)

    def add(self, **counts: int) -> None:
        """Count."""
        with self._lock:
            for name, count in counts.items():
                setattr(self, name, getattr(self, name) + count)

    def take(self) -> "Requests":
        """What was counted so far; counting begins anew."""
        with self._lock:
            names = [name for name in vars(self) if not name.startswith("_")]
            found = Requests(**{name: getattr(self, name) for name in names})
            for name in names:
                setattr(self, name, 0)
        return found

    @property
    def total(self) -> int:
        """Requests of any kind."""
        return self.looks + self.pages + self.reads + self.writes + self.deletes


def counted(place: Location) -> tuple[Location, Requests]:
    """The same local folder as an object store would show it, and what is counted there."""
    requests = Requests()
    return replace(place, filesystem=fs.PyFileSystem(_Handler(requests))), requests


class _File:
    """A file whose bytes are counted."""

    def __init__(self, file: BinaryIO, requests: Requests) -> None:
        self._file, self._requests = file, requests
        self.seek, self.tell, self.close, self.flush = file.seek, file.tell, file.close, file.flush

    @property
    def closed(self) -> bool:
        return self._file.closed

    def read(self, size: int = -1) -> bytes:
        data = self._file.read(size)
        self._requests.add(read_bytes=len(data))
        return data

    def write(self, data: Any) -> int:
        count = self._file.write(data)
        self._requests.add(written_bytes=count)
        return count


class _Handler(fs.FileSystemHandler):
    """The local disk, with every request counted; folders are made as they are needed."""

    def __init__(self, requests: Requests) -> None:
        self._requests, self._disk = requests, fs.LocalFileSystem()

    def get_type_name(self) -> str:
        return "counted"

    def normalize_path(self, path: str) -> str:
        return path

    def get_file_info(self, paths: list[str]) -> list[fs.FileInfo]:
        self._requests.add(looks=len(paths))
        return self._disk.get_file_info(paths)

    def get_file_info_selector(self, selector: fs.FileSelector) -> list[fs.FileInfo]:
        found = self._disk.get_file_info(selector)
        self._requests.add(pages=max(1, -(-len(found) // PAGE)))
        return found

    def open_input_file(self, path: str) -> pa.NativeFile:
        self._requests.add(reads=1)
        return pa.PythonFile(_File(open(path, "rb"), self._requests), mode="r")

    open_input_stream = open_input_file

    def open_output_stream(self, path: str, metadata: Any) -> pa.NativeFile:
        self._requests.add(writes=1)
        self._disk.create_dir(path.rpartition("/")[0], recursive=True)
        return pa.PythonFile(_File(open(path, "wb"), self._requests), mode="w")

    def delete_file(self, path: str) -> None:
        self._requests.add(deletes=1)
        self._disk.delete_file(path)

    def delete_dir(self, path: str) -> None:
        entries = self._disk.get_file_info(fs.FileSelector(path, recursive=True))
        pages = max(1, -(-len(entries) // PAGE))
        self._requests.add(pages=pages, deletes=pages)
        self._disk.delete_dir(path)

    def _refuse(self, *_: Any) -> Any:
        raise NotImplementedError("an object store has no such request")

    create_dir = delete_dir_contents = delete_root_dir_contents = _refuse
    move = copy_file = open_append_stream = _refuse
