"""What every source offers: chunks of samples that can be read in any order, in any process."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from pipeline.data.decode import Pixels


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
