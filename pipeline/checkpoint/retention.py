"""Which checkpoints are kept, and the removal of the others and of what killed saves left."""

import logging
from collections.abc import Sequence

from pipeline.checkpoint.record import COMMIT, CheckpointRecord, checkpoint_folders, committed
from pipeline.config.train import CheckpointConfig
from pipeline.errors import InputError
from pipeline.storage import Location

log = logging.getLogger(__name__)


def kept(records: Sequence[CheckpointRecord], config: CheckpointConfig) -> set[int]:
    """The steps whose checkpoints stay: the last ones, those kept for ever, the best."""
    steps = sorted(record.step for record in records)
    stay = set(steps[-config.keep :])
    if config.keep_every is not None:
        stay |= {step for step in steps if step % config.keep_every == 0}
    if config.keep_best and records:
        stay.add(min(records, key=lambda record: (record.bits_per_dim, -record.step)).step)
    return stay


def tidy(run: Location, newest: str, config: CheckpointConfig) -> None:
    """After the commit of `newest`: delete what is no longer kept, commit first, files after.

    Checkpoints of later steps, or with a commit that cannot be read, are damaged ones: they neither
    count nor go. Only one save is under way at a time, so a folder without a commit, and a file
    that no commit names, is what a killed save left. A failure is logged: the new checkpoint is
    safe, and the next call tries again.
    """
    try:
        found = dict(committed(run))
        past = {n: r for n, r in found.items() if r.step <= found[newest].step}
        stay = kept(list(past.values()), config)
        for name in checkpoint_folders(run):
            if name in past and past[name].step in stay:
                _delete_strangers(run / name, past[name])
            elif name in past or (run / name / COMMIT).size() is None:
                (run / name / COMMIT).delete()
                (run / name).delete_folder()
    except InputError as error:
        log.warning("old checkpoints in %s could not be removed: %s", run, error)


def _delete_strangers(folder: Location, record: CheckpointRecord) -> None:
    for name in folder.files():
        if name != COMMIT and name not in record.files:
            (folder / name).delete()
