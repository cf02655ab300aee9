"""The folder that a prepared split is written to: what is there, and may it be replaced?

A finished set is recognised by its recipe, the digest of the configuration that made it.
"""

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from pipeline.config.prepare import PrepareConfig, WebDatasetSource
from pipeline.data.dataset import ShardedDataset
from pipeline.data.manifest import DATASET, MANIFEST, read_info
from pipeline.errors import InputError
from pipeline.prepare.set_picture import set_picture
from pipeline.prepare.source_survey import Surveyed
from pipeline.prepare.survey import BadImage
from pipeline.prepare.work_folder import PREPARING, WorkFolder, is_claimed
from pipeline.storage import Location, is_temporary

PICTURE = "dataset.png"
BAD_IMAGES = "bad_images.jsonl"
_TAR_BYTES_PER_SAMPLE = 2048  # headers and padding
# What may differ between two configurations of the same set.
_NOT_IN_RECIPE = {"root", "output", "splits", "overwrite", "pool", "max_bad_fraction"}


def recipe(config: PrepareConfig, split: str) -> str:
    """SHA-256 of everything in `config` that the bytes of `split` depend on."""
    made_by = {
        **config.model_dump(mode="json", exclude=_NOT_IN_RECIPE),
        "split": config.splits[split].model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()


def is_finished(folder: Location, config: PrepareConfig, split: str) -> bool:
    """Whether `folder` holds this very set.

    Raises InputError if it holds something else, or cannot be written.
    """
    folder.check_writable()
    indexes = isinstance(config.splits[split], WebDatasetSource)
    if (folder / DATASET).size() is not None:
        info = read_info(folder)
        if config.overwrite:
            if info.indexed and info.shards_at == "." and not indexes:
                raise InputError(
                    f"{folder} holds shards that were only indexed; choose another output"
                )
            return False
        if info.recipe != recipe(config, split):
            raise InputError(
                f"{folder} holds a set made with another configuration; choose another output "
                "or set overwrite=true"
            )
        return True
    foreign = any(not is_temporary(name) for name in folder.files())
    if foreign and not indexes and not is_claimed(folder):
        raise InputError(
            f"{folder} is not empty and holds no prepared set; choose another output or empty it"
        )
    return False


def begin_packing(work: WorkFolder, found: Surveyed) -> None:
    """Claim the folder and take away what is neither of this run nor of one it continues.

    From here until `dataset.json` is written, the folder is not a dataset.
    """
    folder = work.folder
    work.begin(found)
    (folder / DATASET).delete()
    ours = {row.shard for packed in work.finished().values() for row in packed.rows}
    for name in folder.files():
        shard = name.startswith("shard-") and name.endswith(".tar") and name not in ours
        if shard or is_temporary(name) or name in (MANIFEST, PICTURE, BAD_IMAGES):
            (folder / name).delete()


def begin_indexing(folder: Location) -> None:
    """Take away what an older index said; the shards are not ours."""
    for name in (DATASET, PICTURE, BAD_IMAGES):
        (folder / name).delete()


def report_bad(folder: Location, bad: Sequence[BadImage]) -> None:
    """Write one JSON object (defect, place, detail) a line; no file where nothing was bad."""
    if bad:
        lines = (json.dumps(image._asdict(), ensure_ascii=False) + "\n" for image in bad)
        (folder / BAD_IMAGES).write_bytes("".join(lines).encode())


def complete(folder: Location, dataset: ShardedDataset) -> None:
    """Add the picture, if there is none yet, and take the state of the work away."""
    if (folder / PICTURE).size() is None:
        (folder / PICTURE).write_bytes(set_picture(dataset))
    if (folder / PREPARING).is_folder():
        for name in folder.files():
            if is_temporary(name):
                (folder / name).delete()
        (folder / PREPARING).delete_folder()


def check_space(folder: Location, image_bytes: int, samples: int) -> None:
    """Raise InputError if a local disk has no room for so many encoded images."""
    if not folder.is_local:
        return
    needed = image_bytes + samples * _TAR_BYTES_PER_SAMPLE
    place = Path(folder.path)
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < needed:
        raise InputError(f"{place} has {free:,} bytes free; {folder} needs about {needed:,}")
