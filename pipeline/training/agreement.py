"""What all ranks must decide alike: whether there is a next step.

A rank that leaves the loop alone leaves the others waiting in a collective until it times out. So
each rank reads its batches one step ahead and says, while the current step computes, how it
stands: it can go on, it was asked to stop, or its data have failed. The largest of these words is
everyone's decision. The words meet on the CPU, in a process group of their own: no rank waits for
a device.
"""

from collections.abc import Iterator
from datetime import timedelta
from enum import IntEnum
from typing import Any, Protocol

import torch
import torch.distributed as dist

from pipeline.errors import InputError
from vdm_core.records import Batch


class Word(IntEnum):
    """How a rank stands before a step; the largest of all ranks' words counts."""

    GO_ON = 0
    LOOK = 1  # go on, and ask together whether a node is about to be taken away
    STOP = 2  # leave after the current step
    FAILED = 3  # as STOP, because of an error


class Signals(Protocol):
    """What reaches the loop from outside."""

    def word(self, step: int) -> Word:
        """This rank's word about the step after `step`, if its data are there. Must not wait."""

    def node_leaves(self) -> bool:
        """Whether a node of the run is about to be taken away, newly. Collective."""


class AgreedInputError(InputError):
    """Bad input that one or more ranks met, raised on every rank at once."""


class PeerError(RuntimeError):
    """Another rank cannot go on; its own error is the one to read."""


class StepFeed:
    """The batches of each step up to `last`, read one step ahead, and the ranks' agreement.

    For each step call `take`, compute, then `settle`. Every call is collective.
    """

    def __init__(
        self,
        stream: Iterator[Batch],
        accumulation: int,
        last: int,
        signals: Signals,
        timeout_seconds: float,
    ) -> None:
        """Read the first step's batches. Raises as `raise_problem`."""
        self._stream, self._accumulation, self._last = stream, accumulation, last
        self._signals = signals
        self._group = dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout_seconds))
        self._words = torch.zeros((), dtype=torch.int64)
        self._sent: Any = None
        self._problem: Exception | None = None
        self._next = self._read()
        raise_together(self._problem)

    def take(self, step: int) -> list[Batch]:
        """The micro-batches of `step`; the next step's are read, and this rank's word is sent."""
        batches = self._next
        if step < self._last:
            self._next = self._read()
            word = self._signals.word(step) if self._problem is None else Word.FAILED
            self._words.fill_(word)
            self._sent = dist.all_reduce(
                self._words, op=dist.ReduceOp.MAX, group=self._group, async_op=True
            )
        return batches

    def settle(self) -> Word:
        """The word of all ranks about the next step; STOP where there is none.

        Raises RuntimeError if a rank sends no word within the timeout.
        """
        if self._sent is None:
            return Word.STOP
        self._sent.wait()
        self._sent = None
        return Word(int(self._words))

    def raise_problem(self) -> None:
        """After `settle` said FAILED: raise what it was, as `raise_together`."""
        raise_together(self._problem)

    def _read(self) -> list[Batch]:
        try:
            return [next(self._stream) for _ in range(self._accumulation)]
        except Exception as error:  # noqa: BLE001 - `raise_problem` raises it, on all ranks
            self._problem = error
            return []


def raise_together(problem: Exception | None) -> None:
    """Raise on every rank if any of them has a problem. Collective.

    Raises:
        AgreedInputError: on all ranks, where a user's input is all that is at fault.
        PeerError: else, on ranks without a problem; the others raise their own.
    """
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(
        everyone,
        problem and (str(problem), type(problem).__name__, isinstance(problem, InputError)),
    )
    found = [(rank, told) for rank, told in enumerate(everyone) if told is not None]
    if not found:
        return
    if all(is_input for _, (_, _, is_input) in found):
        raise AgreedInputError(found[0][1][0]) from problem
    if problem is not None:
        raise problem
    raise PeerError("; ".join(f"rank {rank}: {name}: {text}" for rank, (text, name, _) in found))


def problem_text(error: BaseException | None) -> str | None:
    """An error in words; None for none."""
    return None if error is None else f"{type(error).__name__}: {error}"


def first_problem(error: BaseException | None) -> str | None:
    """The problem of the first rank that has one, on every rank. Collective."""
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, problem_text(error))
    return next((text for text in everyone if text), None)


def from_rank_zero(value: Any) -> Any:
    """Rank 0's value on every rank. Collective."""
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
