"""Checkpoints: written on every rank, committed by a last small file, verified on load.

Ray's own list of checkpoints is not used to resume: it is updated every two seconds, and a full
disk empties it. `pipeline.training.checkpoint_record` says what a checkpoint consists of.
"""

import hashlib
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from ray.train import Checkpoint
from safetensors.torch import load_file, save_file

from pipeline.errors import InputError
from pipeline.model.export import CARD, WEIGHTS, ModelCard, export_bytes
from pipeline.storage import Location
from pipeline.training.averages import Averages
from pipeline.training.checkpoint_record import COMMIT, CheckpointRecord, FileRecord, committed
from pipeline.training.engine import Engine

DEEPSPEED = "deepspeed"
Upload = Callable[[Path, str], None]
"""(folder, name): every rank's files in its local `folder` -> folder `name` of the run."""
log = logging.getLogger(__name__)


class NoWholeCheckpointError(InputError):
    """Every checkpoint of the run is damaged."""


@dataclass(frozen=True)
class Progress:
    """Where a run stands: steps done and the next global sample index."""

    step: int
    next_index: int


def save(
    engine: Engine,
    averages: Averages,
    progress: Progress,
    card: ModelCard,
    run: Location,
    upload: Upload,
    *,
    keep: int,
    zero_stage: int,
) -> None:
    """Save everything the run needs to go on, commit it, and delete all but `keep`. Collective."""
    name, rank = f"checkpoint_{progress.step:09d}", dist.get_rank()
    if rank == 0:
        (run / name / COMMIT).delete()
        (run / name).delete_folder()  # what a killed save, or a damaged one, may have left
    with tempfile.TemporaryDirectory(prefix="vdm-checkpoint-") as temporary:
        local = Path(temporary)
        engine.save(local / DEEPSPEED)
        for average, tensors in averages.items():
            weights = engine.gather(tensors)
            if rank == 0 and average == card.average.name:
                for file, content in export_bytes(weights, card).items():
                    (local / file).write_bytes(content)
            elif rank == 0:
                save_file(weights, local / f"{average}.safetensors")
        files = _all_files(local)
        upload(local, name)
    dist.barrier()  # every rank's upload is done
    if rank == 0:
        record = CheckpointRecord(
            step=progress.step,
            next_index=progress.next_index,
            world_size=dist.get_world_size(),
            zero_stage=zero_stage,
            files=files,
        )
        (run / name / COMMIT).write_bytes(record.model_dump_json(indent=2).encode())
        behind = [old for old, past in committed(run) if past.step <= progress.step]
        for old in behind[keep:]:  # a later one is damaged: this run has not come to it again
            (run / old / COMMIT).delete()
            (run / old).delete_folder()


def restore(engine: Engine, run: Location) -> tuple[Progress, Averages] | None:
    """Load the newest checkpoint that is whole; None if the run has none. Collective.

    Returns the progress and this rank's share of the EMA. The environment variables LOCAL_RANK
    and LOCAL_WORLD_SIZE are those of torch's launchers; Ray Train sets them too.

    Raises:
        NoWholeCheckpointError: there are checkpoints but every one of them is damaged.
    """
    candidates = _from_rank_zero(committed(run) if dist.get_rank() == 0 else None)
    for name, record in candidates:
        checkpoint = Checkpoint((run / name).path, filesystem=run.filesystem)
        with checkpoint.as_directory() as folder:
            local = Path(folder)
            damage = _damage(local, record)
            if damage is None:
                engine.load(local / DEEPSPEED)
                averages = {
                    name: engine.scatter(load_file(file)) for name, file in _averages(local)
                }
            dist.barrier()  # nobody leaves the folder while another reads it
        if damage is None:
            return Progress(record.step, record.next_index), averages
        log.warning("checkpoint %s/%s is damaged (%s); trying the one before", run, name, damage)
    if candidates:
        raise NoWholeCheckpointError(
            f"every checkpoint in {run} is damaged; restore one from a backup, or choose another "
            "name to train from the start"
        )
    return None


def _averages(local: Path) -> list[tuple[str, Path]]:
    card = ModelCard.model_validate_json((local / CARD).read_bytes())
    files = sorted(local.glob("*.safetensors"))
    return [(card.average.name if file.name == WEIGHTS else file.stem, file) for file in files]


def _all_files(local: Path) -> dict[str, FileRecord]:
    mine = {
        path.relative_to(local).as_posix(): FileRecord(
            bytes=path.stat().st_size, sha256=_sha256(path)
        )
        for path in sorted(local.rglob("*"))
        if path.is_file()
    }
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, mine)
    return {name: record for files in everyone for name, record in files.items()}


def _damage(local: Path, record: CheckpointRecord) -> str | None:
    """What is wrong with any file, agreed by all ranks. Each node checks its copy once."""
    rank, size = int(os.environ["LOCAL_RANK"]), int(os.environ["LOCAL_WORLD_SIZE"])
    names = sorted(record.files)[rank::size]
    problem = next(
        (text for name in names if (text := _problem(local / name, record.files[name]))), None
    )
    everyone: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, problem)
    return next((text for text in everyone if text), None)


def _problem(path: Path, expected: FileRecord) -> str | None:
    if not path.is_file():
        return f"{path.name} is missing"
    if path.stat().st_size != expected.bytes:
        return f"{path.name} has {path.stat().st_size} bytes, not {expected.bytes}"
    return None if _sha256(path) == expected.sha256 else f"{path.name} has changed"


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_rank_zero(value: Any) -> Any:
    box = [value]
    dist.broadcast_object_list(box, src=0)
    return box[0]
