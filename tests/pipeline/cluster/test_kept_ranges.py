"""Finished ranges of a job: cut by size alone, kept whole, never used for another request."""

import pyarrow as pa
import pytest

from pipeline.cluster.kept_ranges import KeepingWorker, KeptRanges, Range
from pipeline.storage import open_storage


class Squares:
    """A worker that remembers nothing: the squares of the items, times a factor."""

    def __init__(self, factor: int) -> None:
        self.factor = factor

    def __call__(self, items: Range) -> pa.Table:
        return pa.table({"square": [self.factor * i * i for i in range(*items)]})


@pytest.fixture
def kept(tmp_path):
    below = open_storage(str(tmp_path / "unfinished"))
    return lambda size=4, **request: KeptRanges.of_request(below, request, total=10, size=size)


def test_the_ranges_cover_every_item_once(kept):
    for size in (1, 3, 4, 10, 99):
        items = [i for places in kept(size=size).ranges() for i in range(*places)]
        assert items == list(range(10))


def test_an_interrupted_job_does_only_what_is_missing(kept):
    """Whatever the order; the tables come back in the order of the items."""
    ranges = kept(seed=1)
    work = KeepingWorker(Squares, (3,), ranges)
    assert work({"start": 8, "stop": 10}) == [{"items": 2}]
    assert ranges.missing() == [Range(0, 4), Range(4, 8)]
    with pytest.raises(FileNotFoundError):
        list(ranges.tables())
    for places in ranges.missing():
        work(places._asdict())
    assert ranges.missing() == []
    rows = [value for table in ranges.tables() for value in table["square"].to_pylist()]
    assert rows == [3 * i * i for i in range(10)]


def test_another_request_or_size_finds_nothing(kept):
    work = KeepingWorker(Squares, (1,), kept(seed=1))
    work({"start": 0, "stop": 4})
    assert len(kept(seed=1).missing()) == 2
    assert len(kept(seed=2).missing()) == 3
    assert len(kept(seed=1, size=5).missing()) == 2  # of 2


def test_what_a_killed_writer_left_is_not_a_finished_range(kept):
    ranges = kept()
    (ranges.folder / "000000000-000000004.parquet.0a1b2c3d.tmp").write_bytes(b"half")
    assert ranges.missing() == ranges.ranges()


def test_a_table_with_a_row_too_few_is_refused(kept):
    with pytest.raises(RuntimeError, match=r"2 rows for the items \[0, 4\)"):
        kept().keep(Range(0, 4), pa.table({"square": [0, 1]}))
