"""Loader processes: the same batches, decoded beside the training process.

Process p of P makes rows p, p + P, … of every micro-batch. Those are what worker r + W p of W P
workers would make, so where the number of lanes is a multiple of W P, no two processes read the
same lane. Pixels travel through shared memory that has no name and so cannot be left behind.
"""

from __future__ import annotations

import gc
import itertools
import logging
import signal
import traceback
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection

import numpy as np
import torch
from torch import Tensor
from torch import multiprocessing as mp

from pipeline.data.collate import Pixels, Rows
from pipeline.data.source import Cut, Decoded, Source

_AHEAD = 3  # micro-batches that are ordered before they are asked for
_WAIT_SECONDS = 5.0
_REPLACEMENTS = 3  # in a row, without a micro-batch between them
_log = logging.getLogger(__name__)


class LoaderError(RuntimeError):
    """A loader process dies again and again, or of an error that the data does not explain."""


def loaded(source: Source, cut: Cut, processes: int, *, held: int) -> Iterator[Decoded]:
    """The micro-batches of `cut`, decoded by that many processes; they end with the iterator.

    The images are the shared memory itself, which is written again when nobody has a view of it
    any more. There is room for `held` batches in the hands of others; of more, copies are made.

    A process that dies is replaced by one that goes on with the same micro-batch. Raises
    LoaderError if one of them fails, or dies and so do its replacements.
    """
    shared = torch.empty((_AHEAD + held, cut.micro_batch, *source.size), dtype=torch.uint8)
    shared.share_memory_()  # type: ignore[no-untyped-call]
    slots = _Slots(shared)
    with ExitStack() as stack:
        loaders = [_Loader(source, cut, shared, p, processes) for p in range(processes)]
        for loader in loaders:
            stack.callback(loader.end)
        ordered = deque[int]()
        for number, indices in enumerate(cut.micro_batches()):
            while len(ordered) < _AHEAD and slots.free:
                ordered.append(slots.free.popleft())
                for loader in loaders:
                    loader.order(ordered[-1])
            slot = ordered.popleft()
            parts = [loader.part(number) for loader in loaders]
            yield indices, slots.images(slot, last=not ordered), _merged(parts)


class _Slots:
    """Room for micro-batches in shared memory (slots,B,H,W,C), and which of it is free."""

    def __init__(self, shared: Tensor) -> None:
        self._shared = shared
        self.free = deque(range(len(shared)))

    def images(self, slot: int, last: bool) -> Pixels:
        """The pixels in `slot`, which is free once they are let go; the `last` one is at once."""
        images: Pixels = self._shared[slot].numpy()
        if last and not self.free:
            self.free.append(slot)
            return images.copy()
        weakref.finalize(images, self.free.append, slot).atexit = False
        return images


class _Loader:
    """One process, seen from the training process."""

    def __init__(
        self, source: Source, cut: Cut, shared: Tensor, number: int, processes: int
    ) -> None:
        self._arguments = source, cut, shared, number, processes
        self._number = number
        self._ordered = deque[int]()  # slots of the micro-batches that are yet to come
        self._replacements = 0  # since the last micro-batch
        self._start(0)

    def order(self, slot: int) -> None:
        """Have its rows of one more micro-batch written into `slot`."""
        self._ordered.append(slot)
        self._send(slot)

    def part(self, batch: int) -> Rows:
        """What it has to say about its rows of micro-batch `batch`."""
        while True:
            try:
                answer = self._pipe.recv()
            except (EOFError, OSError) as error:  # OSError: it died while it was writing
                self._replace(batch, error)
                continue
            if isinstance(answer, str):
                raise LoaderError(f"loader process {self._number} failed:\n{answer}")
            self._ordered.popleft()
            self._replacements = 0
            return answer

    def _start(self, batch: int) -> None:
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(
            target=_serve,
            args=(*self._arguments, batch, theirs),
            name=f"loader-{self._number}",
            daemon=True,
        )
        self._process.start()
        theirs.close()

    def _send(self, slot: int) -> None:
        with suppress(BrokenPipeError, ConnectionResetError):  # it has died: `part` will see it
            self._pipe.send(slot)

    def _replace(self, batch: int, error: Exception) -> None:
        """Start another process at micro-batch `batch`, or raise after too many in vain."""
        self._process.join(_WAIT_SECONDS)
        told = (
            f"loader process {self._number} (pid {self._process.pid}) ended with exit code "
            f"{self._process.exitcode} before micro-batch {batch} was made; a negative code is "
            "a signal, -9 often means that memory ran out: lower data.loader_workers"
        )
        if self._replacements == _REPLACEMENTS:
            raise LoaderError(f"{told}; so did the {_REPLACEMENTS} that replaced it") from error
        self._replacements += 1
        _log.warning("%s; another takes its place", told)
        self.end()
        self._start(batch)
        for slot in self._ordered:
            self._send(slot)

    def end(self) -> None:
        """Close the pipe, on which the process ends; insist if it does not."""
        self._pipe.close()
        self._process.join(_WAIT_SECONDS)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._process.close()


def _serve(
    source: Source,
    cut: Cut,
    shared: Tensor,
    number: int,
    processes: int,
    first: int,
    pipe: Connection,
) -> None:
    """Fill in rows `number`, `number` + `processes`, … of the micro-batches from `first` on.

    Ends when the training process hangs up.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the training process decides when to end
    torch.set_num_threads(1)
    gc.freeze()  # the libraries' objects need not be looked through while samples come and go
    with suppress(EOFError, BrokenPipeError, ConnectionResetError):
        for answer in _answers(source, cut, shared, slice(number, None, processes), first, pipe):
            pipe.send(answer)


def _answers(
    source: Source, cut: Cut, shared: Tensor, own: slice, first: int, pipe: Connection
) -> Iterator[Rows | str]:
    """The rows of each micro-batch, once it is ordered; at last an unforeseen error's text."""
    try:
        filler = source.open()
        for indices in itertools.islice(cut.micro_batches(), first, None):
            yield filler.fill(shared[pipe.recv()].numpy()[own], indices[own])
    except (EOFError, ConnectionResetError):
        raise
    except Exception:  # noqa: BLE001 - it is raised in the training process
        yield traceback.format_exc()


def _merged(parts: Sequence[Rows]) -> Rows:
    """The rows of all processes in the order of the micro-batch."""
    count, processes = sum(len(part.keys) for part in parts), len(parts)
    labels, valid = np.empty(count, np.int64), np.empty(count, np.bool_)
    keys, errors = [""] * count, []
    for number, part in enumerate(parts):
        own = slice(number, None, processes)
        labels[own], valid[own], keys[own] = part.labels, part.valid, part.keys
        errors += [(number + processes * row, error) for row, error in part.errors]
    return Rows(labels, valid, tuple(keys), tuple(sorted(errors, key=lambda pair: pair[0])))
