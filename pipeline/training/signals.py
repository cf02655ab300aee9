"""A worker's line to the driver: steps done and failures go out, a wish to stop comes in.

Signals do not reach training workers: Ray runs them elsewhere, and not in the main thread. A
thread of rank 0 asks the run's monitor once a second, so that the training loop never waits; the
loop's agreement carries the answer to the other ranks.
"""

import logging
import threading
import time
from types import TracebackType
from typing import Any

import ray
import ray.train
import torch.distributed as dist
from ray.exceptions import RayError

from pipeline.training.agreement import Word
from pipeline.training.monitor import CrashLoopError

_ASK_SECONDS = 1.0
_LOOK_SECONDS = 5.0
_TELL_SECONDS = 5.0
log = logging.getLogger(__name__)


class DriverLine:
    """`Signals` from the driver and from Ray; a context manager, leaving it ends the thread."""

    def __init__(self, monitor: Any, rank: int) -> None:
        self._monitor, self._rank = monitor, rank
        self._step = 0
        self._stop, self._over = threading.Event(), threading.Event()
        self._looked = time.monotonic()
        self._leaving: frozenset[str] = frozenset()
        self._thread = threading.Thread(target=self._ask, name="driver-line", daemon=True)

    def __enter__(self) -> "DriverLine":
        """Announce the attempt and begin to ask, on rank 0. Collective.

        Raises:
            CrashLoopError: there were attempts enough; on all ranks.
        """
        told = [None]
        if self._rank == 0:
            told = [ray.get(self._monitor.begin.remote(dist.get_world_size()))]
        dist.broadcast_object_list(told, src=0)
        if told[0] is not None:
            raise CrashLoopError(told[0])
        if self._rank == 0:
            self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the thread."""
        self._over.set()
        if self._rank == 0:
            self._thread.join()

    def failed(self, text: str) -> None:
        """Tell the driver of this rank's error, before Ray ends the other ranks for it."""
        told = [
            self._monitor.heard.remote(self._step),
            self._monitor.failed.remote(self._rank, text),
        ]
        try:
            ray.get(told, timeout=_TELL_SECONDS)
        except RayError as error:
            log.warning("the driver's monitor does not answer: %s", error)

    def word(self, step: int) -> Word:
        """STOP if the driver wants it; LOOK now and then, on rank 0."""
        self._step = step - 1  # the one before has been done
        if self._stop.is_set():
            return Word.STOP
        if self._rank == 0 and time.monotonic() - self._looked > _LOOK_SECONDS:
            self._looked = time.monotonic()
            return Word.LOOK
        return Word.GO_ON

    def node_leaves(self) -> bool:
        """Whether Ray has begun to drain a further node of the run (a spot instance's end)."""
        info = ray.train.get_preemption_info()
        leaving = frozenset(info.preempted_node_ids) if info else frozenset()
        new = leaving - self._leaving
        self._leaving |= leaving
        if new and self._rank == 0:
            log.warning("nodes %s are about to be taken away: saving now", ", ".join(sorted(new)))
        return bool(new)

    def _ask(self) -> None:
        while not self._over.wait(_ASK_SECONDS):
            try:
                if ray.get(self._monitor.heard.remote(self._step)):
                    self._stop.set()
            except RayError as error:
                log.warning("the driver's monitor does not answer: %s", error)
                return
