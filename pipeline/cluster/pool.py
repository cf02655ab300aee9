"""Work shared by a pool of actors, through Ray Data: one task in, its rows out, in any order."""

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import ray
import ray.data

from pipeline.cluster.wait import wait_for_nodes
from pipeline.config.sample import PoolConfig
from pipeline.errors import InputError

log = logging.getLogger(__name__)
Row = dict[str, Any]


class Worker(Protocol):
    """What lives in an actor: made once from the arguments, then called for each task."""

    def __call__(self, task: Row) -> list[Row]: ...


_REFUSED = "refused_input"
_TASK_RETRIES = 10  # a task whose actor dies so often is what kills it


class _Guarded:
    """A worker whose InputError comes back as a row: Ray would hand on its text alone."""

    def __init__(self, worker: Callable[..., Worker], arguments: tuple[Any, ...]) -> None:
        self._worker: Worker | None = None
        self._make = worker, arguments

    def __call__(self, task: Row) -> list[Row]:
        try:
            if self._worker is None:
                worker, arguments = self._make
                self._worker = worker(*arguments)
            return self._worker(task)
        except InputError as error:
            return [{_REFUSED: str(error)}]


def run_tasks(
    tasks: Sequence[Row],
    worker: Callable[..., Worker],
    arguments: tuple[Any, ...],
    pool: PoolConfig,
) -> Iterator[list[Row]]:
    """Yield what `worker(*arguments)` makes of each task, one task at a time, as they finish.

    Ray Data places the actors, restarts those that die and repeats their tasks, each ten times at
    most. Tasks and rows hold numbers and text. Another exception of a worker than InputError is
    raised here as Ray's, with the worker's traceback.

    Raises:
        InputError: the cluster can never hold one actor, or a worker raised it.
    """
    actor = {"CPU": pool.cpus_per_actor, "GPU": pool.gpus_per_actor}
    wait_for_nodes(
        lambda: check_pool(pool, [node["Resources"] for node in ray.nodes() if node["Alive"]]),
        [{kind: each for kind, each in actor.items() if each}] * min(pool.actors, len(tasks)),
        pool.wait_seconds,
    )
    data = ray.data.from_items(list(tasks), override_num_blocks=len(tasks))
    _quieten()
    with warnings.catch_warnings():
        # Deprecated, but the retries have no parameter of their own yet.
        warnings.filterwarnings("ignore", message="`ray_remote_args_fn` is deprecated")
        results = data.flat_map(
            _Guarded,
            fn_constructor_args=(worker, arguments),
            compute=ray.data.ActorPoolStrategy(
                min_size=min(pool.min_actors or pool.actors, len(tasks)),
                max_size=min(pool.actors, len(tasks)),
            ),
            ray_remote_args_fn=lambda: {"max_task_retries": _TASK_RETRIES},
            num_cpus=pool.cpus_per_actor,
            num_gpus=pool.gpus_per_actor or None,
        )
    for block in results.iter_batches(batch_size=None, batch_format="pyarrow"):
        rows = block.to_pylist()
        for row in rows:
            if _REFUSED in row:
                raise InputError(row[_REFUSED])
        yield rows


def check_pool(pool: PoolConfig, nodes: Sequence[Mapping[str, float]]) -> None:
    """Refuse an actor that fits on none of the `nodes`; room for fewer actors only takes longer.

    Raises:
        InputError: names what is asked for and the most that a node has.
    """
    for kind, each in (("CPU", pool.cpus_per_actor), ("GPU", pool.gpus_per_actor)):
        most = max(node.get(kind, 0) for node in nodes)
        if each > most:
            field = f"pool.{kind.lower()}s_per_actor"
            raise InputError(
                f"{field} is {each:g} but no node of the cluster has more than {most:g} {kind}s; "
                f"lower {field}, add nodes, or let the cluster grow with pool.wait_seconds"
            )


def _quieten() -> None:
    """Leave the terminal to our own lines; Ray Data's go on to its log file."""
    ray.data.DataContext.get_current().enable_progress_bars = False
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # it warns of that
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            handler.setLevel(logging.WARNING)
