"""Which checkpoints are kept, and the removal of the others and of what killed saves left."""

import logging
from collections.abc import Sequence

from pipeline.checkpoint.record import COMMIT, CheckpointRecord, checkpoint_folders, read_commit
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


def tidy(
    run: Location, newest: str, config: CheckpointConfig, seen: dict[str, CheckpointRecord]
) -> None:
    """After the commit of `newest`: delete what is no longer kept, commit first, files after.

    Checkpoints of later steps, or with a commit that cannot be read, are damaged ones: they neither
    count nor go. Only one save is under way at a time, so a folder without a commit, and a file
    that no commit names, is what a killed save left. A failure is logged: the new checkpoint is
    safe, and the next call tries again.

    Args:
        seen: what earlier calls have read and cleaned, without the files; brought up to date, so
            that a call does not cost more with every checkpoint that is kept.
    """
    try:
        folders = list(checkpoint_folders(run))
        new = _read_new(run, folders, newest, seen)
        past = [name for name in folders if name in seen and seen[name].step <= seen[newest].step]
        stay = kept([seen[name] for name in past], config)
        for name in folders:
            if name in past and seen[name].step in stay:
                if name in new:
                    _delete_strangers(run / name, new[name])
            elif name in past or (name not in seen and (run / name / COMMIT).size() is None):
                (run / name / COMMIT).delete()
                (run / name).delete_folder()
                seen.pop(name, None)
    except InputError as error:
        log.warning("old checkpoints in %s could not be removed: %s", run, error)


def _read_new(
    run: Location, folders: Sequence[str], newest: str, seen: dict[str, CheckpointRecord]
) -> dict[str, CheckpointRecord]:
    """Read what is not among `seen`, and `newest`, whose place an earlier one may have had."""
    new = {}
    for name in folders:
        if name not in seen or name == newest:
            record = read_commit(run / name)
            if record is not None:
                new[name] = record
                seen[name] = record.model_copy(update={"files": {}})
    return new


def _delete_strangers(folder: Location, record: CheckpointRecord) -> None:
    for name in folder.files():
        if name != COMMIT and name not in record.files:
            (folder / name).delete()
    for name in folder.folders():  # the ranks' part records
        (folder / name).delete_folder()
