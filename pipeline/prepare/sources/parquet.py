"""Parquet files with one encoded image per row. A chunk is one row group."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.errors import InputError
from pipeline.prepare.sources.base import SourceSample
from pipeline.storage import Location, open_storage


class ParquetImages:
    """Column `image` (bytes, or structs with a field `bytes`) and integer column `label`.

    Raises InputError for missing files, unreadable ones, and absent or unsuitable columns.
    """

    class_names = None

    def __init__(self, urls: Sequence[str], image: str, label: str | None) -> None:
        """Read the files' footers; no rows yet."""
        self._image, self._label = image, label
        self.labelled = label is not None
        self._groups: list[tuple[Location, int]] = []
        self._sizes: list[tuple[str, int, int]] = []
        rows: list[int] = []
        for file in [file for url in urls for file in _files(url)]:
            metadata = self._metadata(file)
            for group in range(metadata.num_row_groups):
                about = metadata.row_group(group)
                self._groups.append((file, group))
                self._sizes.append((file.url, about.num_rows, about.total_byte_size))
                rows.append(about.num_rows)
        self._first = [0, *accumulate(rows)]
        self.chunks, self.samples = len(self._groups), sum(rows)
        if not self.samples:
            raise InputError(f"{', '.join(urls)}: no rows")

    def digest(self) -> str:
        """Of the row groups' files, rows and sizes."""
        return hashlib.sha256(repr(self._sizes).encode()).hexdigest()

    def read(self, chunk: int) -> list[SourceSample]:
        """The rows of one row group."""
        file, group = self._groups[chunk]
        columns = [self._image, *([self._label] if self._label else [])]
        try:
            with file.filesystem.open_input_file(file.path) as handle:
                table = pq.ParquetFile(handle).read_row_group(group, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"cannot read {file}, row group {group}: {error}") from error
        images = table[self._image].to_pylist()
        labels = table[self._label].to_pylist() if self._label else [None] * len(images)
        return [
            self._sample(file, self._first[chunk] + row, image, label)
            for row, (image, label) in enumerate(zip(images, labels, strict=True))
        ]

    def _sample(self, file: Location, row: int, image: Any, label: int | None) -> SourceSample:
        place = f"{file} row {row}"
        if self._label and label is None:
            raise InputError(f"{place}: no label; fill it in or remove the row")
        return SourceSample(
            f"{row:08d}", place, image["bytes"] if isinstance(image, dict) else image, label
        )

    def _metadata(self, file: Location) -> pq.FileMetaData:
        try:
            with file.filesystem.open_input_file(file.path) as handle:
                parquet = pq.ParquetFile(handle)
                schema, metadata = parquet.schema_arrow, parquet.metadata
        except FileNotFoundError:
            raise InputError(f"{file} does not exist; check the path") from None
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"{file} is not a readable Parquet file: {error}") from error
        for name in filter(None, (self._image, self._label)):
            if schema.names.count(name) != 1:
                found = "several columns" if name in schema.names else "no column"
                raise InputError(
                    f"{file} has {found} {name!r}, only {schema.names}; name one in the config"
                )
        if not _is_bytes(schema.field(self._image).type):
            raise InputError(f"{file}: column {self._image!r} does not hold bytes")
        if self._label and not pa.types.is_integer(schema.field(self._label).type):
            raise InputError(f"{file}: column {self._label!r} does not hold integers")
        return metadata


def _files(url: str) -> list[Location]:
    place = open_storage(url)
    if not place.is_folder():
        return [place]
    names = [name for name in place.files() if name.endswith(".parquet")]
    if not names:
        raise InputError(f"{url} holds no .parquet files; check the path")
    return [place / name for name in names]


def _is_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        return any(f.name == "bytes" and _is_bytes(f.type) for f in kind)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))
