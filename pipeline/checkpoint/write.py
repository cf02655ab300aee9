"""Writing a checkpoint without talking to the other ranks except through the storage itself.

Each rank writes its file and then a part record of it. Rank 0 waits for the records of all, looks
whether the storage holds what they say, and commits. All of this may run beside the training.
"""

import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Event
from typing import TypeVar

from pydantic import ValidationError

from pipeline.checkpoint.record import (
    COMMIT,
    INDEX,
    CheckpointRecord,
    FileLayout,
    FileRecord,
    Index,
    file_record,
)
from pipeline.config.base import ConfigModel
from pipeline.errors import InputError
from pipeline.storage import Location

_FIRST_PAUSE, _LONGEST_PAUSE = 0.05, 5.0
_READERS = 32
log = logging.getLogger(__name__)
T = TypeVar("T")


class AbandonedError(InputError):
    """The wait for the other ranks was given up."""


class PartRecord(ConfigModel):
    """What one rank has written."""

    name: str
    file: FileRecord
    layout: FileLayout


@dataclass(frozen=True)
class Save:
    """One save, as every rank knows it.

    `life` names the start of this group of workers; `patience` is for how many seconds the storage
    is tried again.
    """

    folder: Location
    life: str
    world_size: int
    patience: float

    @property
    def parts(self) -> Location:
        """The folder of the part records, which goes as a whole when they have served."""
        return self.folder / f"parts.{self.life}"

    def part(self, rank: int) -> str:
        """The name of a rank's part record in it."""
        return f"rank-{rank:05d}.json"


def write_part(save: Save, rank: int, content: memoryview, layout: FileLayout) -> None:
    """Write this rank's file, then its part record.

    Raises:
        InputError: the storage refuses for longer than the save's patience.
    """
    name = f"rank-{rank:05d}.{save.life}.safetensors"
    part = PartRecord(name=name, file=file_record(content), layout=layout)
    _persist(save, save.folder / name, content)
    _persist(save, save.parts / save.part(rank), part.model_dump_json().encode())


def commit(
    save: Save,
    head: CheckpointRecord,
    parameters: Mapping[str, tuple[int, ...]],
    kinds: tuple[str, ...],
    others: Callable[[Mapping[str, FileRecord]], Mapping[str, bytes]],
    abandoned: Event,
) -> None:
    """On rank 0: wait for every part, write the small files, and the commit as the last of all.

    Args:
        head: the commit but for its files.
        others: from the records of the ranks' files to the small files beside them.
        abandoned: set when a part will never come.

    Raises:
        AbandonedError: `abandoned` was set before all parts were there.
        InputError: the storage refuses for longer than the save's patience, or has lost a file.
    """
    _await_parts(save, abandoned)
    with ThreadPoolExecutor(min(_READERS, save.world_size)) as readers:
        parts = list(readers.map(lambda rank: _read_part(save, rank), range(save.world_size)))
    files = {part.name: part.file for part in parts}
    layouts = {part.name: part.layout for part in parts}
    _check_sizes(save, files)
    index = Index(parameters=dict(parameters), kinds=kinds, files=layouts)
    small = {**others(files), INDEX: index.model_dump_json().encode()}
    for name, content in small.items():
        _persist(save, save.folder / name, content)
    files |= {name: file_record(content) for name, content in small.items()}
    record = head.model_copy(update={"files": files})
    _persist(save, save.folder / COMMIT, record.model_dump_json(indent=1).encode())


def _await_parts(save: Save, abandoned: Event) -> None:
    """Wait for every rank's record. Lists their folder: a look costs little for many ranks too."""
    expected, pause = {save.part(rank) for rank in range(save.world_size)}, _FIRST_PAUSE
    while missing := expected.difference(_patiently(save, save.parts.files, save.parts)):
        if abandoned.wait(pause):
            raise AbandonedError(f"{save.parts / min(missing)} was never written")
        pause = min(2 * pause, _LONGEST_PAUSE)


def _read_part(save: Save, rank: int) -> PartRecord:
    place = save.parts / save.part(rank)
    try:
        return PartRecord.model_validate_json(_patiently(save, place.read_bytes, place))
    except ValidationError as error:
        raise InputError(f"{place} is damaged: {error}; check the storage") from None


def _check_sizes(save: Save, files: Mapping[str, FileRecord]) -> None:
    sizes = _patiently(save, save.folder.file_sizes, save.folder)
    for name, record in files.items():
        if sizes.get(name) != record.bytes:
            raise InputError(
                f"{save.folder}/{name} has {sizes.get(name)} of {record.bytes} bytes just after it "
                "was written; check the storage"
            )


def _persist(save: Save, place: Location, content: bytes | memoryview) -> None:
    _patiently(save, lambda: place.write_bytes(content), place)


def _patiently(save: Save, act: Callable[[], T], place: Location) -> T:
    """The result of `act`, which is tried again, with growing pauses, while the storage refuses."""
    deadline, pause = time.monotonic() + save.patience, _FIRST_PAUSE
    while time.monotonic() + pause < deadline:
        try:
            return act()
        except (InputError, OSError) as error:
            log.warning("%s: %s; trying again in %.1f s", place, error, pause)
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE)
    return act()
