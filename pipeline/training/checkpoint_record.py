"""What a checkpoint is: a folder of the run that ends with its commit.

    deepspeed/          every rank's parameters, optimizer and rate curve
    model.safetensors   EMA weights, and
    model.json          their card: what sampling and evaluation load
    checkpoint.json     the commit: step, position, size and SHA-256 of every file; written last

A folder without `checkpoint.json` does not exist for anyone.
"""

import logging
from typing import Literal

from pydantic import ValidationError

from pipeline.config.base import ConfigModel
from pipeline.errors import InputError
from pipeline.model.export import CARD
from pipeline.storage import Location

COMMIT = "checkpoint.json"
log = logging.getLogger(__name__)


class FileRecord(ConfigModel):
    """Size in bytes and digest of one file."""

    bytes: int
    sha256: str


class CheckpointRecord(ConfigModel):
    """Contents of `checkpoint.json`. The stream goes on at global sample index `next_index`."""

    format: Literal[1] = 1
    step: int
    next_index: int
    world_size: int
    zero_stage: int
    files: dict[str, FileRecord]


def committed(run: Location) -> list[tuple[str, CheckpointRecord]]:
    """Names and records of the run's complete checkpoints, newest first."""
    found = []
    for name in run.folders():
        commit = run / name / COMMIT
        if name.startswith("checkpoint_") and commit.size() is not None:
            try:
                record = CheckpointRecord.model_validate_json(commit.read_bytes())
            except ValidationError as error:
                log.warning("%s is damaged and ignored: %s", commit, error)
                continue
            found.append((name, record))
    return sorted(found, key=lambda item: item[1].step, reverse=True)


def newest_model(folder: Location) -> Location:
    """The folder of the model to load: `folder` itself, or the newest checkpoint of a run.

    Raises:
        InputError: neither a model nor a run with a complete checkpoint is there.
    """
    if (folder / CARD).size() is not None:
        return folder
    found = committed(folder)
    if not found:
        raise InputError(
            f"there is no model in {folder}: give the folder of a training run with at least one "
            f"complete checkpoint, or a folder with {CARD}"
        )
    return folder / found[0][0]
