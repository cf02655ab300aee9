"""Going on after the newest checkpoint that is whole, whatever number of ranks wrote it."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch
import torch.distributed as dist

from pipeline.checkpoint.fragment import AVERAGE, MOMENTS, WEIGHTS
from pipeline.checkpoint.read import CheckpointReader, DamagedError, Wanted, wrong_size
from pipeline.checkpoint.record import has_commits, newest_first
from pipeline.errors import InputError
from pipeline.storage import Location
from pipeline.training.agreement import (
    AgreedInputError,
    first_problem,
    from_rank_zero,
    raise_together,
)
from pipeline.training.averages import Averages
from pipeline.training.checkpoint import Progress
from pipeline.training.engine import Engine

T = TypeVar("T")
log = logging.getLogger(__name__)


class NoWholeCheckpointError(AgreedInputError):
    """Every checkpoint of the run is damaged."""


def restore(engine: Engine, run: Location) -> tuple[Progress, Averages] | None:
    """Load the newest checkpoint that is whole; None if the run has none. Collective.

    It may come from another number of ranks and another ZeRO stage: each rank reads what it holds.
    Returns the progress and this rank's share of the averages.

    Raises:
        NoWholeCheckpointError: there are checkpoints but every one of them is damaged.
        AgreedInputError, OSError, PeerError: the storage cannot be read, or a checkpoint is of
            another format, as `raise_together`.
    """
    rank, candidates = dist.get_rank(), newest_first(run)
    while (candidate := _of_rank_zero(lambda: next(candidates, None))) is not None:
        name, record = candidate
        averages: Averages = {}
        damage = failure = None
        try:
            if rank == 0 and (wrong := wrong_size(run / name, record.files)):
                raise DamagedError(wrong)
            averages = _read_state(engine, CheckpointReader(run / name, record))
        except DamagedError as error:
            damage = error
        except (InputError, OSError) as error:  # storage that cannot be reached is no damage
            failure = error
        raise_together(failure)
        if (problem := first_problem(damage)) is None:
            engine.resume(record.step, record.optimizer_steps)
            return Progress(record.step, record.next_index), averages
        if rank == 0:
            log.warning("checkpoint %s is damaged (%s); trying the one before", name, problem)
    if _of_rank_zero(lambda: has_commits(run)):
        raise NoWholeCheckpointError(
            f"every checkpoint in {run} is damaged; restore one from a backup, or choose another "
            "name to train from the start"
        )
    return None


def _of_rank_zero(find: Callable[[], T]) -> T:
    """What rank 0 finds. Collective: its failure is that of all, as `raise_together`."""
    found = failure = None
    try:
        found = find() if dist.get_rank() == 0 else None
    except (InputError, OSError) as error:
        failure = error
    raise_together(failure)
    answer: T = from_rank_zero(found)
    return answer


def _read_state(engine: Engine, reader: CheckpointReader) -> Averages:
    """Overwrite this rank's share of weights and moments; returns its share of the averages."""
    averages = {
        name: [torch.empty_like(tensor) for tensor in engine.weights()] for name in reader.averages
    }
    layout = engine.fragments(WEIGHTS)
    wanted = [Wanted(kind, f) for kind in (WEIGHTS, *MOMENTS) for f in engine.fragments(kind)]
    wanted += [
        Wanted(AVERAGE + name, fragment._replace(tensor=tensor))
        for name, track in averages.items()
        for fragment, tensor in zip(layout, track, strict=True)
    ]
    reader.fill(wanted)
    engine.load_buffers(reader.buffers())
    return averages
