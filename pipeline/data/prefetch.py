"""Run an iterator ahead in a thread, so that reading and decoding overlap with computing."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Generic, TypeVar

T = TypeVar("T")

_POLL_SECONDS = 0.1


class _End:
    """The source is used up, or failed with `error`."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Prefetch(Generic[T]):
    """The items of `source`, up to `depth` of them made in advance by one thread.

    An exception of the source is raised where its item would have come. A context manager: leaving
    it ends the thread.
    """

    def __init__(self, source: Iterable[T], *, depth: int = 4) -> None:
        """Start the thread. Raises ValueError for depth < 1."""
        if depth < 1:
            raise ValueError(f"depth must be 1 or more, got {depth}")
        self._ready: queue.Queue[T | _End] = queue.Queue(depth)
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._run, args=(source,), name="prefetch", daemon=True
        )
        self._thread.start()

    def __enter__(self) -> Prefetch[T]:
        """Return the iterable."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """End the thread."""
        self.close()

    def __iter__(self) -> Iterator[T]:
        """The items in order; raises what the source raised."""
        while not self._stop.is_set():
            item = self._ready.get()
            if isinstance(item, _End):
                self._ready.put(item)  # a second loop ends the same way
                if item.error is not None:
                    raise item.error
                return
            yield item

    def close(self) -> None:
        """Stop after the item in progress and wait for the thread; may be called twice."""
        self._stop.set()
        self._thread.join()

    def _run(self, source: Iterable[T]) -> None:
        error: BaseException | None = None
        try:
            for item in source:
                if not self._put(item):
                    return
        except BaseException as raised:  # noqa: BLE001 - it is raised again in the consumer
            error = raised
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        """Hand over `item`; False if the consumer has closed."""
        while not self._stop.is_set():
            try:
                self._ready.put(item, timeout=_POLL_SECONDS)
            except queue.Full:
                continue
            return True
        return False
