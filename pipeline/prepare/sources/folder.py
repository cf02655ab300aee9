"""A tree of image files. A chunk is one file."""

from __future__ import annotations

import hashlib
import os
from pathlib import PurePosixPath

from pipeline.errors import InputError
from pipeline.prepare.sources.base import SourceSample
from pipeline.storage import open_storage


class FolderImages:
    """Every visible file below `url`; with `labelled`, the first folder level is the class.

    Classes are numbered in name order. Raises InputError for a missing or empty folder, files
    beside the class folders, two files that would get the same key, names that are not UTF-8 and
    links that lead to a folder above them.
    """

    def __init__(self, url: str, *, labelled: bool) -> None:
        """List the files; nothing is read yet."""
        self._folder = open_storage(url)
        if not self._folder.is_folder():
            raise InputError(f"{url} is not a folder; check the path")
        if self._folder.is_local:
            _check_tree(self._folder.path, frozenset())
        sizes = self._folder.file_sizes(recursive=True)
        self._files = [n for n in sizes if not any(p.startswith(".") for p in n.split("/"))]
        if not self._files:
            raise InputError(f"{url} holds no files; check the path")
        listed = [(name, sizes[name]) for name in self._files]
        self._digest = hashlib.sha256(repr(listed).encode()).hexdigest()
        self.labelled = labelled
        self.class_names = self._classes() if labelled else None
        self._keys = self._unique_keys()
        self.samples = self.chunks = len(self._files)

    def digest(self) -> str:
        """Of the files' names and sizes."""
        return self._digest

    def read(self, chunk: int) -> list[SourceSample]:
        """The one file of the chunk."""
        name = self._files[chunk]
        file = self._folder / name
        label = self.class_names.index(name.split("/")[0]) if self.class_names else None
        try:
            return [SourceSample(self._keys[chunk], str(file), file.read_bytes(), label)]
        except OSError as error:
            raise InputError(f"cannot read {file}: {error}") from error

    def _classes(self) -> tuple[str, ...]:
        loose = [name for name in self._files if "/" not in name]
        if loose:
            raise InputError(
                f"{self._folder}: {len(loose)} files are in no class folder ({loose[0]}, …); "
                "move them into one, or set labelled: false"
            )
        return tuple(sorted({name.split("/")[0] for name in self._files}))

    def _unique_keys(self) -> list[str]:
        """Relative names without extension; dots, which end a key in a tar, become "_"."""
        keys: dict[str, str] = {}
        for name in self._files:
            path = PurePosixPath(name)
            key = str(path.with_name(path.stem)).replace(".", "_")
            if key in keys:
                raise InputError(
                    f"{self._folder}: {keys[key]} and {name} get the same key {key}; rename one"
                )
            keys[key] = name
        return list(keys)


def _check_tree(folder: str, above: frozenset[tuple[int, int]]) -> None:
    """What a listing could not survive: names without text, and folders that are in themselves."""
    try:
        about = os.stat(folder)
        entries = list(os.scandir(folder))
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error}; check its permissions") from error
    here = (about.st_dev, about.st_ino)
    if here in above:
        raise InputError(f"{folder} is a link to a folder that it lies in; remove it")
    for entry in entries:
        if not entry.name.isascii() and any("\udc80" <= c <= "\udcff" for c in entry.name):
            raise InputError(f"{folder}: the name {entry.name!a} is not UTF-8; rename it")
        if entry.is_dir():
            _check_tree(entry.path, above | {here})
