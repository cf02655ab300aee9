"""Writing a checkpoint without talking to the other ranks except through the storage itself.

Each rank writes its file and then a part record of it. Rank 0 waits for the records of all, looks
whether the storage holds what they say, and commits. All of this may run beside the training.
"""

import logging
import time
from collections.abc import Callable, Mapping
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

    def part(self, rank: int) -> str:
        """The name of a rank's part record."""
        return f"rank-{rank:05d}.{self.life}.json"


def write_part(save: Save, rank: int, content: memoryview, layout: FileLayout) -> None:
    """Write this rank's file, then its part record.

    Raises:
        InputError: the storage refuses for longer than the save's patience.
    """
    name = f"rank-{rank:05d}.{save.life}.safetensors"
    part = PartRecord(name=name, file=file_record(content), layout=layout)
    _persist(save, name, content)
    _persist(save, save.part(rank), part.model_dump_json().encode())


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
    parts = [_await_part(save, rank, abandoned) for rank in range(save.world_size)]
    files = {part.name: part.file for part in parts}
    layouts = {part.name: part.layout for part in parts}
    _check_sizes(save, files)
    index = Index(parameters=dict(parameters), kinds=kinds, files=layouts)
    small = {**others(files), INDEX: index.model_dump_json().encode()}
    for name, content in small.items():
        _persist(save, name, content)
    files |= {name: file_record(content) for name, content in small.items()}
    record = head.model_copy(update={"files": files})
    _persist(save, COMMIT, record.model_dump_json(indent=1).encode())


def _await_part(save: Save, rank: int, abandoned: Event) -> PartRecord:
    place, pause = save.folder / save.part(rank), _FIRST_PAUSE
    while _patiently(save, place.size, str(place)) is None:
        if abandoned.wait(pause):
            raise AbandonedError(f"{place} was never written")
        pause = min(2 * pause, _LONGEST_PAUSE)
    try:
        return PartRecord.model_validate_json(_patiently(save, place.read_bytes, str(place)))
    except ValidationError as error:
        raise InputError(f"{place} is damaged: {error}; check the storage") from None


def _check_sizes(save: Save, files: Mapping[str, FileRecord]) -> None:
    sizes = _patiently(save, lambda: save.folder.sizes(list(files)), str(save.folder))
    for (name, record), size in zip(files.items(), sizes, strict=True):
        if size != record.bytes:
            raise InputError(
                f"{save.folder}/{name} has {size} of {record.bytes} bytes just after it was "
                "written; check the storage"
            )


def _persist(save: Save, name: str, content: bytes | memoryview) -> None:
    place = save.folder / name
    _patiently(save, lambda: place.write_bytes(content), str(place))


def _patiently(save: Save, act: Callable[[], T], place: str) -> T:
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
