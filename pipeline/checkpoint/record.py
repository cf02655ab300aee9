"""What a checkpoint is: a folder of the run that ends with its commit.

    rank-00000.<life>.safetensors   each rank's fragments of weights, moments and averages
    buffers.<life>.safetensors      what is no parameter, such as the ends of a fixed schedule
    model.json                      how to build the model around the weights
    index.json                      which elements of which parameter lie where in which file
    checkpoint.json                 the commit: step, position, size and digests of every file
    parts.<life>/rank-00000.json    until the commit: what each rank says that it has written

`checkpoint.json` is written last: a folder without it does not exist for anyone. `<life>` names
the start of the workers that wrote the file, so what an earlier, killed save left is never
mistaken for a part of this one.
"""

import hashlib
import logging
from collections.abc import Iterator
from typing import Literal, Self

from pydantic import NonNegativeInt, ValidationError, model_validator

from pipeline.checkpoint.share import Share
from pipeline.config.base import ConfigModel
from pipeline.errors import InputError
from pipeline.storage import Location

COMMIT, INDEX = "checkpoint.json", "index.json"
SNAPSHOTS = "ema_snapshots"
"""Folder of a run with checkpoints of its power-function averages alone, which all stay."""
PIECE = 1 << 25
log = logging.getLogger(__name__)


class FileRecord(ConfigModel):
    """Size of a file in bytes, and the SHA-256 of each of its pieces of `PIECE` bytes."""

    bytes: NonNegativeInt
    sha256: tuple[str, ...]

    @model_validator(mode="after")
    def _each_piece(self) -> Self:
        if len(self.sha256) != max(1, -(-self.bytes // PIECE)):
            raise ValueError(f"{len(self.sha256)} digests for {self.bytes} bytes")
        return self


class FileLayout(ConfigModel):
    """Where a rank's file keeps what.

    `fragments`: (parameter's place in the index, offset in it, elements). From byte `start` on they
    follow each other as float32, once for each kind of the index. Where there is a `share`, they
    are that part of every parameter and are not listed.
    """

    start: int
    fragments: tuple[tuple[int, int, int], ...] = ()
    share: Share | None = None


class Index(ConfigModel):
    """Contents of `index.json`: the shape of every parameter, the kinds of state, and the files."""

    parameters: dict[str, tuple[NonNegativeInt, ...]]
    kinds: tuple[str, ...]
    files: dict[str, FileLayout]


class CheckpointRecord(ConfigModel):
    """Contents of `checkpoint.json`. The stream goes on at global sample index `next_index`.

    `optimizer_steps` is Adam's count of steps, and the place on the learning-rate curve.
    `bits_per_dim` is the training loss of the last interval.
    """

    format: Literal[3] = 3
    step: int
    next_index: int
    optimizer_steps: int
    bits_per_dim: float
    world_size: int
    zero_stage: int
    config_sha256: str
    files: dict[str, FileRecord]


def file_record(content: bytes | memoryview) -> FileRecord:
    """The record of a file with this content."""
    pieces = (content[at : at + PIECE] for at in range(0, max(len(content), 1), PIECE))
    digests = tuple(hashlib.sha256(piece).hexdigest() for piece in pieces)
    return FileRecord(bytes=len(content), sha256=digests)


def checkpoint_name(step: int) -> str:
    """The name of the folder of the checkpoint after `step`."""
    return f"checkpoint_{step:09d}"


def checkpoint_folders(run: Location) -> Iterator[str]:
    """Names of the folders that are, or may become, checkpoints."""
    return (name for name in run.folders() if name.startswith("checkpoint_"))


def parse_commit(commit: Location) -> CheckpointRecord:
    """The record in this file.

    Raises:
        InputError: it is of another format.
        ValidationError: it is damaged.
    """
    try:
        return CheckpointRecord.model_validate_json(commit.read_bytes())
    except ValidationError as error:
        for problem in error.errors():
            if problem["loc"] == ("format",):
                raise InputError(
                    f"{commit} is of format {problem['input']}, which this version does not read; "
                    "use the version that wrote it, or train anew under another name"
                ) from None
        raise


def read_commit(folder: Location) -> CheckpointRecord | None:
    """The record of a complete checkpoint; None, with a warning, where it cannot be read.

    Raises:
        InputError: it is of another format.
    """
    commit = folder / COMMIT
    if commit.size() is None:
        return None
    try:
        return parse_commit(commit)
    except ValidationError as error:
        log.warning("%s is damaged and ignored: %s", commit, error)
        return None


def newest_first(run: Location) -> Iterator[tuple[str, CheckpointRecord]]:
    """Names and records of the run's complete checkpoints; each is read when it is asked for."""
    for name in sorted(checkpoint_folders(run), key=lambda name: (len(name), name), reverse=True):
        if (record := read_commit(run / name)) is not None:
            yield name, record


def committed(run: Location) -> list[tuple[str, CheckpointRecord]]:
    """All of `newest_first`."""
    return list(newest_first(run))


def has_commits(run: Location) -> bool:
    """Whether any checkpoint was ever committed, readable or not."""
    return any((run / name / COMMIT).size() is not None for name in checkpoint_folders(run))
