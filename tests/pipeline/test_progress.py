"""The lines that long work leaves behind."""

import logging

import pytest

from pipeline.progress import Progress


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="pipeline.progress")
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_clock_starts_with_the_first_result(lines):
    """A minute of starting actors is in neither the rate nor the time left."""
    now = [60.0]
    progress = Progress("drawn", 1000, "samples", clock=lambda: now[0])
    progress.add(100)
    now[0] += 10
    progress.add(200)
    assert lines() == [
        "drawn 100 of 1,000 samples",
        "drawn 300 of 1,000 samples  20 samples/s  35s left",
    ]


def test_lines_keep_their_distance_and_the_last_one_always_comes(lines):
    now = [0.0]
    progress = Progress("read", 10, period=5.0, clock=lambda: now[0])
    for _ in range(10):
        progress.add(1)
        now[0] += 1
    assert [line.split("  ")[0] for line in lines()] == [
        "read 1 of 10 images", "read 6 of 10 images", "read 10 of 10 images",
    ]  # fmt: skip
    assert lines()[-1].endswith("0s left")


def test_no_rate_is_invented_from_results_that_come_together(lines):
    """Two shards that end within a second of each other say nothing about the speed."""
    now = [60.0]
    progress = Progress("drawn", 200, "samples", clock=lambda: now[0])
    progress.add(100)
    now[0] += 0.01
    progress.add(100)
    assert lines() == ["drawn 100 of 200 samples", "drawn 200 of 200 samples"]


def test_all_work_in_one_result_divides_by_nothing(lines):
    Progress("read", 3, clock=lambda: 1.0).add(3)
    assert lines() == ["read 3 of 3 images"]
