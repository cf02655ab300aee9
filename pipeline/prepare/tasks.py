"""Work cut into tasks: done here, one after the other, or by a pool of actors through Ray Data.

Results are the same either way: a worker's answer depends on its task alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple, Protocol, TypeVar

from pydantic import TypeAdapter

from pipeline.config.sample import PoolConfig

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Worker(Protocol[T_co]):
    """Made once from its arguments, then called with the number of each task."""

    def __call__(self, task: int) -> T_co: ...


class Work(NamedTuple):
    """How to make a worker, in this process or another."""

    worker: Callable[..., Worker[Any]]
    arguments: tuple[Any, ...]


def connection(pool: PoolConfig) -> AbstractContextManager[None]:
    """The cluster that `run_all` needs with this pool: none for a single actor."""
    if pool.actors == 1:
        return nullcontext()
    from pipeline.cluster.connect import connected  # without Ray the start takes half as long

    return connected()


def run_all(
    tasks: Sequence[int], work: Work, answer: type[T], pool: PoolConfig
) -> Iterator[tuple[int, T]]:
    """Yield each task with its answer (a dataclass), as they finish.

    Raises InputError where a worker does.
    """
    if pool.actors == 1 or len(tasks) < 2:
        worker = work.worker(*work.arguments)
        for task in tasks:
            yield task, worker(task)
        return
    from pipeline.cluster.pool import run_tasks

    adapter = TypeAdapter(answer)
    rows = [{"task": task} for task in tasks]
    for finished in run_tasks(rows, _Remote, (work, answer), pool):
        for row in finished:
            yield row["task"], adapter.validate_json(row["answer"])


class _Remote:
    """A worker inside an actor; its answers travel as JSON."""

    def __init__(self, work: Work, answer: type[Any]) -> None:
        self._worker = work.worker(*work.arguments)
        self._adapter = TypeAdapter(answer)

    def __call__(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        answer = self._worker(task["task"])
        return [{"task": task["task"], "answer": self._adapter.dump_json(answer).decode()}]
