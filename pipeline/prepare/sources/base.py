"""What every source offers: chunks of samples that can be read in any order, in any process."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from typing import NamedTuple, Protocol

from pipeline.data.decode import Pixels

_SAMPLES_AHEAD = 16


class SourceSample(NamedTuple):
    """One image as the source has it."""

    key: str  # unique in the source
    place: str  # for messages
    image: bytes | Pixels | None  # encoded, or (C,H,W) uint8; None if the source has a hole here
    label: int | None


class Source(Protocol):
    """Samples in chunks, in the source's own order; a chunk is what is cheap to read at once."""

    @property
    def samples(self) -> int:
        """Number of samples."""
        ...

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        ...

    @property
    def labelled(self) -> bool:
        """Whether the samples have labels."""
        ...

    @property
    def class_names(self) -> tuple[str, ...] | None:
        """Names in label order, where the source knows them."""
        ...

    def digest(self) -> str:
        """SHA-256 that changes when the samples do (as far as names and sizes tell)."""
        ...

    def read(self, chunk: int) -> list[SourceSample]:
        """The samples of one chunk. Raises InputError where it cannot be read."""
        ...


def read_ahead(source: Source, chunks: Iterable[int]) -> Iterator[tuple[int, list[SourceSample]]]:
    """Each chunk with its samples, in the given order.

    The next chunks are being read meanwhile, because object stores answer slowly but many at once:
    sixteen where a chunk is a single image, two where chunks are large. Raises InputError as
    `source.read`.
    """
    ahead = max(2, _SAMPLES_AHEAD * source.chunks // source.samples)
    waiting = iter(chunks)
    with ThreadPoolExecutor(ahead) as threads:

        def start(chunk: int) -> tuple[int, Future[list[SourceSample]]]:
            return chunk, threads.submit(source.read, chunk)

        reading = deque(start(chunk) for chunk in islice(waiting, ahead))
        try:
            while reading:
                chunk, samples = reading.popleft()
                yield chunk, samples.result()
                reading.extend(start(chunk) for chunk in islice(waiting, 1))
        finally:
            threads.shutdown(cancel_futures=True)
