"""The driver's part: claim the folders, have missing shards made, finish each set that is full."""

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np

from pipeline.cluster.pool import run_tasks
from pipeline.data.manifest import DATASET
from pipeline.progress import Progress
from pipeline.sampling.finish import finish_set
from pipeline.sampling.generate import Cell, ShardGenerator
from pipeline.sampling.output_folder import REQUESTS, claim, finished_shards
from pipeline.sampling.plan import SetPlan, ShardTask
from pipeline.sampling.rows import HeldRows, class_counts
from pipeline.sampling.shard_rows import FinishedShard

_SHOWN = 10  # classes with a number of their own in a progress line
_log = logging.getLogger(__name__)
Done = dict[str, FinishedShard]


class Claimed:
    """A set whose folder is this job's: what is done there, and what is missing."""

    def __init__(self, plan: SetPlan, number: int) -> None:
        """Claim the folder of `plan`, the job's set `number`.

        Raises:
            InputError: it holds samples of another request, or something else.
        """
        self.plan = plan
        self.plan_sha256 = claim(plan.output, plan.identity, overwrite=plan.config.overwrite)
        self.done: Done = finished_shards(plan.output, self.plan_sha256)
        self.missing = [task for task in plan.tasks(number) if task.shard not in self.done]
        self.complete = not self.missing and (plan.output / DATASET).size() is not None

    def cell(self) -> Cell:
        """What the actors get."""
        return Cell(self.plan.config, self.plan.stored_rows, self.plan_sha256)

    def open_for_writing(self) -> None:
        """Store the rows that came from a file; a set that lost shards is none for readers."""
        (self.plan.output / DATASET).delete()
        if isinstance(self.plan.rows, HeldRows):
            data = self.plan.rows.stored_bytes(self.plan.config.samples_per_shard)
            (self.plan.output / REQUESTS).write_bytes(data)


def claim_all(plans: Sequence[SetPlan]) -> list[Claimed]:
    """Claim the folder of every set before work starts.

    Raises:
        InputError: as `Claimed`.
    """
    return [Claimed(plan, number) for number, plan in enumerate(plans)]


def draw(sets: Sequence[Claimed], finished: Callable[[Claimed], None]) -> None:
    """Make every missing shard, with one pool for all sets; `finished` is called for each set.

    Raises:
        InputError: an actor refused to go on, or fits on no node.
    """
    open_sets = [one for one in sets if not one.complete]
    for one in open_sets:
        one.open_for_writing()
    tasks = [task for one in open_sets for task in one.missing]
    _log.info("%d of %d shards to make", len(tasks), sum(len(s.plan.tasks()) for s in sets))
    remaining = Counter(task.cell for task in tasks)
    for one in open_sets:
        if not one.missing:
            _finish(one, finished)
    if not tasks:
        return
    config, model = sets[0].plan.config, sets[0].plan.model.place.url
    progress = _Progress(sets, tasks)
    arguments = ([one.cell() for one in sets], model)
    for rows in run_tasks([asdict(t) for t in tasks], ShardGenerator, arguments, config.pool):
        for task in (ShardTask(**row) for row in rows):
            progress.add(task)
            remaining[task.cell] -= 1
            if not remaining[task.cell]:
                _finish(sets[task.cell], finished)


def _finish(one: Claimed, finished: Callable[[Claimed], None]) -> None:
    one.done = finished_shards(one.plan.output, one.plan_sha256)
    finish_set(one.plan, one.done)
    finished(one)


class _Progress:
    """Samples drawn, rate and time left, and how far each class is; earlier shards count too."""

    def __init__(self, sets: Sequence[Claimed], tasks: Sequence[ShardTask]) -> None:
        self._sets = sets
        self._log = Progress("drawn", sum(task.stop - task.start for task in tasks), "samples")
        self._wanted: Counter[int] = Counter()
        self._made: Counter[int] = Counter()
        for one in sets:
            self._wanted.update(one.plan.class_counts)
            for shard in one.done.values():
                self._made.update(dict(shard.row.label_counts))

    def add(self, task: ShardTask) -> None:
        """Count a shard."""
        rows = self._sets[task.cell].plan.rows.rows(task.start, task.stop)
        self._made.update(class_counts(rows))
        self._log.add(len(rows.ids), self._classes())

    def _classes(self) -> str:
        if not self._wanted:
            return ""
        if len(self._wanted) <= _SHOWN:
            parts = (f"{k}: {self._made[k]}/{n}" for k, n in sorted(self._wanted.items()))
            return f"  classes {', '.join(parts)}"
        shares = np.array([self._made[label] / n for label, n in self._wanted.items()])
        return f"  each class {shares.min():.0%} to {shares.max():.0%}"
