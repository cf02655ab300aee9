"""Work over numbered items, cut into ranges; each finished range is kept, so a killed job goes on.

    folder/000000000-000000100.parquet   the rows of items [0, 100), written whole or not at all

The folder is named by the digest of the request, so what is kept never answers another one. The
ranges are a matter of `size` alone: neither actors nor restarts change what a range computes.
"""

import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.cluster.pool import Row, run_tasks
from pipeline.config.sample import PoolConfig
from pipeline.parquet_file import parquet_bytes
from pipeline.progress import Progress
from pipeline.storage import Location

log = logging.getLogger(__name__)


class Range(NamedTuple):
    """Items [start, stop)."""

    start: int
    stop: int


class RangeWorker(Protocol):
    """What lives in an actor: made once, then called for each range; one table row an item."""

    def __call__(self, items: Range) -> pa.Table: ...


@dataclass(frozen=True)
class KeptRanges:
    """The finished ranges of one request over `total` items, `size` of them a range."""

    folder: Location
    total: int
    size: int

    @staticmethod
    def of_request(
        below: Location, request: Mapping[str, Any], *, total: int, size: int
    ) -> "KeptRanges":
        """In a folder of `below` that is named by what the rows depend on, `size` included."""
        text = json.dumps({**request, "range": size}, sort_keys=True)
        digest = hashlib.sha256(text.encode()).hexdigest()
        return KeptRanges(below / digest[:16], total, size)

    def ranges(self) -> list[Range]:
        """All ranges, in order."""
        starts = range(0, self.total, self.size)
        return [Range(start, min(start + self.size, self.total)) for start in starts]

    def missing(self) -> list[Range]:
        """The ranges that are not finished."""
        names = set(self.folder.files())
        return [items for items in self.ranges() if _name(items) not in names]

    def keep(self, items: Range, table: pa.Table) -> None:
        """Finish a range.

        Raises:
            RuntimeError: the table has not one row for each item.
        """
        if table.num_rows != items.stop - items.start:
            raise RuntimeError(f"{table.num_rows} rows for the items [{items.start}, {items.stop})")
        (self.folder / _name(items)).write_bytes(parquet_bytes(table))

    def tables(self) -> Iterator[pa.Table]:
        """The tables of all ranges, in order, one in memory at a time.

        Raises:
            FileNotFoundError: a range is not finished.
        """
        for items in self.ranges():
            data = (self.folder / _name(items)).read_bytes()
            yield pq.read_table(pa.BufferReader(data))


def finish_ranges(
    kept: KeptRanges,
    worker: Callable[..., RangeWorker],
    arguments: tuple[Any, ...],
    pool: PoolConfig,
    what: str,
    unit: str = "images",
) -> None:
    """Let actors of `worker(*arguments)` do the ranges that are missing; `what` heads the log.

    Raises:
        InputError: as `pipeline.cluster.pool.run_tasks`, or a range cannot be written.
    """
    missing = kept.missing()
    left = sum(stop - start for start, stop in missing)
    if left < kept.total:
        log.info("%s: %d of %d %s are done", what, kept.total - left, kept.total, unit)
    if not missing:
        return
    progress = Progress(what, left, unit)
    tasks = [items._asdict() for items in missing]
    for rows in run_tasks(tasks, KeepingWorker, (worker, arguments, kept), pool):
        progress.add(sum(row["items"] for row in rows))


class KeepingWorker:
    """A worker whose tables stay on storage; only their sizes travel back."""

    def __init__(
        self, worker: Callable[..., RangeWorker], arguments: tuple[Any, ...], kept: KeptRanges
    ) -> None:
        self._worker, self._kept = worker(*arguments), kept

    def __call__(self, task: Row) -> list[Row]:
        """Compute and keep one range."""
        items = Range(**task)
        self._kept.keep(items, self._worker(items))
        return [{"items": items.stop - items.start}]


def _name(items: Range) -> str:
    return f"{items.start:09d}-{items.stop:09d}.parquet"
