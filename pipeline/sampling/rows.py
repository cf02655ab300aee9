"""What is asked for, row by row: which sample has which id, class, seed and guidance scale.

Rows exist as columns of numbers only, and a shard's rows are found without those of any other.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.parquet_file import parquet_bytes
from pipeline.storage import Location
from vdm_core.labels import NO_LABEL

Integers = NDArray[np.int64]


class PlannedRows(NamedTuple):
    """Consecutive rows of a plan, as columns (N,)."""

    ids: Integers
    labels: Integers  # -1 where the model knows no classes
    seeds: Integers
    scales: NDArray[np.float64]  # w of the guidance

    def part(self, start: int, stop: int) -> "PlannedRows":
        """Rows [start, stop) of these."""
        ids, labels, seeds, scales = self
        here = slice(start, stop)
        return PlannedRows(ids[here], labels[here], seeds[here], scales[here])


class Rows(Protocol):
    """All rows of a sample set, as an actor finds them."""

    def rows(self, start: int, stop: int) -> PlannedRows:
        """Rows [start, stop); both ends are those of shards."""
        ...


@dataclass(frozen=True)
class ClassTurns:
    """Ids 0, 1, 2, …, for which the classes take turns, each until it has its number.

    So every stretch of ids has all classes, as long as they last, and the class of an id is a
    matter of arithmetic.
    """

    counts: tuple[tuple[int, int], ...]  # (class, number); ((-1, number),) without classes
    seed: int
    scale: float

    @property
    def total(self) -> int:
        """Samples in all."""
        return sum(count for _, count in self.counts)

    def rows(self, start: int, stop: int) -> PlannedRows:
        """Rows [start, stop)."""
        ids = np.arange(start, stop, dtype=np.int64)
        full = np.full(len(ids), self.seed, np.int64), np.full(len(ids), self.scale)
        return PlannedRows(ids, self._labels(ids), *full)

    def _labels(self, ids: Integers) -> Integers:
        """The classes in phases: in each, those take turns that have samples left."""
        labels = np.empty_like(ids)
        first = 0
        for before, rounds in pairwise([0, *sorted({count for _, count in self.counts})]):
            active = np.array([label for label, count in self.counts if count >= rounds], np.int64)
            end = first + (rounds - before) * len(active)
            here = (ids >= first) & (ids < end)
            labels[here] = active[(ids[here] - first) % len(active)]
            first = end
        return labels


@dataclass(frozen=True)
class StoredRows:
    """Rows in a Parquet file with a row group for each shard."""

    file: Location
    total: int
    group_rows: int

    def rows(self, start: int, stop: int) -> PlannedRows:
        """Rows [start, stop): one row group."""
        group, offset = divmod(start, self.group_rows)
        if offset or stop != min(start + self.group_rows, self.total):
            raise ValueError(f"rows {start} to {stop} are not a row group of {self.group_rows}")
        with self.file.filesystem.open_input_file(self.file.path) as handle:
            table = pq.ParquetFile(handle).read_row_group(group)
        return PlannedRows(*(table[name].to_numpy() for name in PlannedRows._fields))


@dataclass(frozen=True)
class HeldRows:
    """Rows in memory, 32 bytes each: what a file of requests holds, checked."""

    columns: PlannedRows

    @property
    def total(self) -> int:
        """Samples in all."""
        return len(self.columns.ids)

    def rows(self, start: int, stop: int) -> PlannedRows:
        """Rows [start, stop)."""
        return self.columns.part(start, stop)

    def stored_bytes(self, group_rows: int) -> bytes:
        """The file that `StoredRows` reads."""
        table = pa.table(dict(zip(PlannedRows._fields, self.columns, strict=True)))
        return parquet_bytes(table, row_group_size=group_rows)


def class_counts(rows: PlannedRows) -> dict[int, int]:
    """How many of each class; nothing for rows without classes."""
    labels, counts = np.unique(rows.labels[rows.labels != NO_LABEL], return_counts=True)
    return dict(zip(labels.tolist(), counts.tolist(), strict=True))
