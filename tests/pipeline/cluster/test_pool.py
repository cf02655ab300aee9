"""What a pool refuses, and how. The pool itself is tested in tests/jobs with a real cluster."""

import pytest

from pipeline.cluster.pool import _Guarded, check_pool
from pipeline.config.sample import PoolConfig
from pipeline.errors import InputError


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
