"""Saving the run: what is saved, who writes it, and when the ranks agree about how it went.

A save costs the training a copy into host memory. A thread of each rank writes the copy, and rank
0's commits; the ranks hear of each other's failures at the next save.
"""

import hashlib
import logging
import secrets
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYetError
from dataclasses import dataclass
from threading import Event
from types import TracebackType

import torch.distributed as dist
from safetensors.torch import save as save_tensors

from pipeline.checkpoint.fragment import AVERAGE, MOMENTS, WEIGHTS
from pipeline.checkpoint.rank_file import RankFile
from pipeline.checkpoint.record import (
    SNAPSHOTS,
    CheckpointRecord,
    FileRecord,
    checkpoint_name,
)
from pipeline.checkpoint.retention import tidy
from pipeline.checkpoint.share import Share
from pipeline.checkpoint.write import Save, commit, write_part
from pipeline.config.train import TrainConfig
from pipeline.model.export import CARD, RunCard
from pipeline.storage import Location
from pipeline.training.agreement import (
    AgreedInputError,
    first_problem,
    from_rank_zero,
    problem_text,
)
from pipeline.training.averages import Averages
from pipeline.training.engine import Engine

_LEAVING_SECONDS = 30.0
log = logging.getLogger(__name__)


class SaveFailedError(AgreedInputError):
    """Checkpoints could not be written."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done and the next global sample index."""

    step: int
    next_index: int


class Checkpoints:
    """Writes a run's checkpoints in the background, one at a time. Every rank holds one.

    Leaving it as a context lets what is under way end, for at most half a minute, and never waits
    for another rank: call `settle` before, on all ranks, where the run ends well.
    """

    def __init__(
        self, run: Location, config: TrainConfig, card: RunCard, *, snapshots: bool = False
    ) -> None:
        """Agree on a name for this life of the run. Collective.

        Args:
            snapshots: save the averages that have a width, nothing else, and delete none.
        """
        self._run, self._config, self._card = run, config, card
        self._retention = config.checkpoint
        self._state: tuple[str, ...] = (WEIGHTS, *MOMENTS)
        self._averages = [average.name for average in config.optimizer.ema]
        if snapshots:
            self._run, self._state = run / SNAPSHOTS, ()
            self._retention = config.checkpoint.model_copy(update={"keep_every": 1})
            self._averages = [a.name for a in config.optimizer.ema if a.width is not None]
        self._rank = dist.get_rank()
        self._life = from_rank_zero(secrets.token_hex(4))
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
        self._written: Future[None] | None = None
        self._committed: Future[None] | None = None
        self._abandoned = Event()
        self._file: RankFile | None = None
        self._failures = 0
        self._seen: dict[str, CheckpointRecord] = {}

    def save(
        self, engine: Engine, averages: Averages, progress: Progress, bits_per_dim: float
    ) -> float:
        """Copy the state after `progress` and begin to write it; returns the seconds it took.

        Collective.

        Raises:
            SaveFailedError: this is one failed save too many (`checkpoint.failures_allowed`).
        """
        began = time.perf_counter()
        self.settle(allowed=self._config.checkpoint.failures_allowed)
        kinds = (*self._state, *(AVERAGE + name for name in self._averages))
        tensors = [f.tensor for kind in self._state for f in engine.fragments(kind)]
        tensors += [tensor for name in self._averages for tensor in averages[name]]
        if self._file is None:
            self._file = RankFile(
                kinds,
                engine.fragments(WEIGHTS),
                {name: shape.numel() for name, shape in engine.shapes.items()},
                Share(self._rank, dist.get_world_size()),
                pinned=engine.device.type == "cuda",
            )
        self._file.fill(tensors)
        self._start(engine, kinds, progress, bits_per_dim)
        return time.perf_counter() - began

    def settle(self, *, allowed: int = 0) -> None:
        """Wait for the save under way, if any, and agree on how it ended. Collective.

        Raises:
            SaveFailedError: more than `allowed` saves in a row have failed.
        """
        if self._written is None:
            return
        problem = first_problem(self._written.exception())
        if problem:
            self._abandoned.set()
        elif self._committed is not None:
            problem = problem_text(self._committed.exception())
        problem = from_rank_zero(problem)
        self._written = self._committed = None
        self._failures = self._failures + 1 if problem else 0
        if self._failures > allowed:
            raise SaveFailedError(
                f"{self._failures} checkpoints in a row could not be written to {self._run}: "
                f"{problem}; those from before are untouched. Free space or mend the storage, and "
                "start the run again"
            )
        if problem and self._rank == 0:
            log.error("a checkpoint could not be written: %s; training goes on", problem)

    def __enter__(self) -> "Checkpoints":
        """Nothing has to be opened."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the thread; a save whose other parts do not come is given up."""
        for future in (self._written, self._committed):
            if future is not None:
                try:
                    if failed := future.exception(timeout=_LEAVING_SECONDS):
                        log.error("the last checkpoint could not be written: %s", failed)
                except NotYetError:
                    log.error("the last checkpoint was not complete when the run ended")
        self._abandoned.set()
        self._thread.shutdown()

    def _start(
        self, engine: Engine, kinds: tuple[str, ...], progress: Progress, bits_per_dim: float
    ) -> None:
        """Hand the filled file to the thread, and on rank 0 the commit after it."""
        assert self._file is not None
        name = checkpoint_name(progress.step)
        save = Save(
            folder=self._run / name,
            life=self._life,
            world_size=dist.get_world_size(),
            patience=self._config.checkpoint.retry_seconds,
        )
        file, self._abandoned = self._file, Event()
        self._written = self._thread.submit(
            lambda: write_part(save, self._rank, file.content(), file.layout)
        )
        if self._rank != 0:
            return
        head = CheckpointRecord(
            step=progress.step,
            next_index=progress.next_index,
            optimizer_steps=engine.optimizer_steps,
            bits_per_dim=bits_per_dim,
            world_size=save.world_size,
            zero_stage=self._config.deepspeed.zero_stage,
            config_sha256=hashlib.sha256(self._config.model_dump_json().encode()).hexdigest(),
            files={},
        )
        parameters = {parameter: tuple(shape) for parameter, shape in engine.shapes.items()}
        buffers = save_tensors(engine.buffers())
        card = self._card.model_copy(update={"step": progress.step})

        def others(files: Mapping[str, FileRecord]) -> Mapping[str, bytes]:
            return {f"buffers.{save.life}.safetensors": buffers, CARD: _sealed(card, files)}

        def finish(abandoned: Event) -> None:
            commit(save, head, parameters, kinds, others, abandoned)
            log.info("step %d: checkpoint committed in %s", progress.step, self._run)
            tidy(self._run, name, self._retention, self._seen)

        self._committed = self._thread.submit(finish, self._abandoned)


def _sealed(card: RunCard, files: Mapping[str, FileRecord]) -> bytes:
    """The card with a digest of the files that hold the weights."""
    digests = "".join(digest for file in files.values() for digest in file.sha256)
    whole = hashlib.sha256(digests.encode()).hexdigest()
    sealed = card.model_copy(update={"weights_sha256": whole})
    return sealed.model_dump_json(indent=2).encode()
