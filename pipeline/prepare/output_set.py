"""The folder that a prepared split is written to: what is there, and may it be replaced?

A finished set is recognised by its recipe, the digest of the configuration that made it.
"""

import hashlib
import json
import shutil
from pathlib import Path

from pyarrow import fs

from pipeline.config.prepare import PrepareConfig, WebDatasetSource
from pipeline.data.dataset import ShardedDataset
from pipeline.data.manifest import DATASET, MANIFEST, read_info
from pipeline.errors import InputError
from pipeline.prepare.class_grid import class_grid
from pipeline.storage import Location, is_temporary

MARKER = "being-prepared"
GRID = "dataset.png"
_TAR_BYTES_PER_SAMPLE = 2048  # headers and padding
# What may differ between two configurations of the same set.
_NOT_IN_RECIPE = {"root", "output", "splits", "overwrite"}


def recipe(config: PrepareConfig, split: str) -> str:
    """SHA-256 of everything in `config` that the bytes of `split` depend on."""
    made_by = {
        **config.model_dump(mode="json", exclude=_NOT_IN_RECIPE),
        "split": config.splits[split].model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()


def is_finished(folder: Location, config: PrepareConfig, split: str) -> bool:
    """Whether `folder` holds this very set. Raises InputError if it holds something else."""
    if (folder / DATASET).size() is not None:
        if config.overwrite:
            return False
        if read_info(folder).recipe != recipe(config, split):
            raise InputError(
                f"{folder} holds a set made with another configuration; choose another output "
                "or set overwrite=true"
            )
        return True
    indexes = isinstance(config.splits[split], WebDatasetSource)
    foreign = any(not is_temporary(name) for name in folder.files())
    if foreign and not indexes and (folder / MARKER).size() is None:
        raise InputError(
            f"{folder} is not empty and holds no prepared set; choose another output or empty it"
        )
    return False


def begin(folder: Location, *, pack: bool) -> None:
    """Take away what an older or interrupted run left; shards that were only indexed stay.

    From here until `dataset.json` is written, the folder is not a dataset.
    """
    keep_shards = False
    if (folder / DATASET).size() is not None:
        keep_shards = read_info(folder).indexed
        (folder / DATASET).delete()
    if not pack:
        return
    (folder / MARKER).write_bytes(b"jobs.prepare is writing here, or was interrupted\n")
    for name in folder.files():
        shard = name.startswith("shard-") and name.endswith(".tar") and not keep_shards
        if shard or is_temporary(name) or name in (MANIFEST, GRID):
            (folder / name).delete()


def complete(folder: Location, dataset: ShardedDataset) -> None:
    """Add the picture, if there is none yet, and take the marker and its leftovers away."""
    if (folder / GRID).size() is None:
        (folder / GRID).write_bytes(class_grid(dataset))
    if (folder / MARKER).size() is not None:
        for name in folder.files():
            if is_temporary(name):
                (folder / name).delete()
        (folder / MARKER).delete()


def check_space(folder: Location, image_bytes: int, samples: int) -> None:
    """Raise InputError if a local disk has no room for so many encoded images."""
    if not isinstance(folder.filesystem, fs.LocalFileSystem):
        return
    needed = image_bytes + samples * _TAR_BYTES_PER_SAMPLE
    place = Path(folder.path)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(f"{place} has {free:,} bytes free; {folder} needs about {needed:,}")
