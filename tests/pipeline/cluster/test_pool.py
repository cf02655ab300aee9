"""The progress lines of a pool. The pool itself is tested in tests/jobs with a real cluster."""

import logging

import pytest

from pipeline.cluster.pool import ProgressLog, _Guarded, check_pool
from pipeline.config.sample import PoolConfig
from pipeline.errors import InputError


@pytest.fixture
def lines(caplog):
    caplog.set_level(logging.INFO, logger="pipeline.cluster.pool")
    return lambda: [record.getMessage() for record in caplog.records]


def test_the_clock_starts_with_the_first_result(lines):
    """A minute of starting actors is in neither the rate nor the time left."""
    now = [60.0]
    progress = ProgressLog(1000, "samples", clock=lambda: now[0])
    progress.add(100)
    now[0] += 10
    progress.add(200)
    assert lines() == ["100/1000 samples", "300/1000 samples  20.0 samples/s  35s left"]


def test_lines_keep_their_distance_and_the_last_one_always_comes(lines):
    now = [0.0]
    progress = ProgressLog(10, "images", period=5.0, clock=lambda: now[0])
    for _ in range(10):
        progress.add(1)
        now[0] += 1
    assert [line.split("  ")[0] for line in lines()] == [
        "1/10 images", "6/10 images", "10/10 images",
    ]  # fmt: skip
    assert lines()[-1].endswith("0s left")


def test_no_rate_is_invented_from_results_that_come_together(lines):
    """Two shards that end within a second of each other say nothing about the speed."""
    now = [60.0]
    progress = ProgressLog(200, "samples", clock=lambda: now[0])
    progress.add(100)
    now[0] += 0.01
    progress.add(100)
    assert lines() == ["100/200 samples", "200/200 samples"]


def test_all_work_in_one_result_divides_by_nothing(lines):
    ProgressLog(3, "images", clock=lambda: 1.0).add(3)
    assert lines() == ["3/3 images"]


class Picky:
    """A worker that refuses, when it is made or when it is asked for 1."""

    def __init__(self, refuses: bool) -> None:
        if refuses:
            raise InputError("no model here")

    def __call__(self, task):
        if task["number"] == 1:
            raise InputError("shard s/key k is bad")
        return [task]


def test_refused_input_crosses_the_processes_as_a_row():
    guarded = _Guarded(Picky, (False,))
    assert guarded({"number": 0}) == [{"number": 0}]
    assert guarded({"number": 1}) == [{"refused_input": "shard s/key k is bad"}]
    assert _Guarded(Picky, (True,))({"number": 0}) == [{"refused_input": "no model here"}]


NODES = [{"CPU": 4.0}, {"CPU": 2.0, "GPU": 1.0}]


@pytest.mark.parametrize(
    ("pool", "message"),
    [
        ({"cpus_per_actor": 8}, "pool.cpus_per_actor is 8 but .* more than 4 CPUs"),
        ({"gpus_per_actor": 2}, "pool.gpus_per_actor is 2 but .* more than 1 GPUs"),
    ],
)
def test_an_actor_that_fits_nowhere_is_refused_and_not_waited_for(pool, message):
    with pytest.raises(InputError, match=message):
        check_pool(PoolConfig(**pool), NODES)


def test_more_actors_than_fit_at_once_are_no_error():
    check_pool(PoolConfig(actors=100, cpus_per_actor=4, gpus_per_actor=0.5), NODES)
