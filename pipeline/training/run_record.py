"""What a run is: `run.json` in its folder, and what may change when it continues."""

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import ValidationError

from pipeline.config.base import ConfigModel
from pipeline.config.train import TrainConfig
from pipeline.errors import InputError
from pipeline.metrics import flatten
from pipeline.storage import Location

RECORD = "run.json"
# What `model.of` leads to is compared by its digest.
# More `steps` under optimizer.decay=cosine stretch what is left of the rate curve; so be it.
MAY_CHANGE = (
    "root", "storage_path", "resume", "steps", "model.of", "model.ema", "data.train",
    "data.on_bad_sample",
    "data.max_bad_fraction", "data.loader_workers", "data.micro_batch", "cluster.", "checkpoint.",
    "tracking.", "deepspeed.zero_stage", "deepspeed.compile", "deepspeed.config.zero_",
)  # fmt: skip


class RunRecord(ConfigModel):
    """The identity of a run. `given_sha256` is of what its model takes from another model."""

    format: Literal[2] = 2
    config: TrainConfig
    dataset_digest: str
    given_sha256: str | None = None
    mlflow_run_id: str
    tracking_uri: str


def read_run(folder: Location) -> RunRecord | None:
    """Return the record of the run in `folder`, or None if there is no run yet.

    Raises:
        InputError: the record cannot be read by this version.
    """
    if (folder / RECORD).size() is None:
        return None
    try:
        return RunRecord.model_validate_json((folder / RECORD).read_bytes())
    except ValidationError as error:
        raise InputError(
            f"{folder}/{RECORD} is not a run of this version ({error}); choose another name"
        ) from None


def write_run(folder: Location, record: RunRecord) -> None:
    """Store the record, replacing the one before."""
    (folder / RECORD).write_bytes(record.model_dump_json(indent=2).encode())


def check_same_run(
    old: RunRecord, config: TrainConfig, dataset_digest: str, given_sha256: str | None = None
) -> None:
    """Refuse to continue a run whose result the change would falsify.

    Raises:
        InputError: names every field that differs, with both values.
    """
    before, now = (_settings(c) for c in (old.config, config))
    changed = [
        f"{key}: {_show(before, key)} in the run, {_show(now, key)} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if old.dataset_digest != dataset_digest:
        changed.append(
            f"data.train: manifest {old.dataset_digest[:12]} in the run, {dataset_digest[:12]} now"
        )
    if old.given_sha256 != given_sha256:
        was, now_is = (str(digest)[:12] for digest in (old.given_sha256, given_sha256))
        changed.append(f"model.of: digest {was} in the run, {now_is} now")
    if changed:
        raise InputError(
            f"run {config.name!r} exists with another configuration; restore these values or "
            "choose another name:\n  " + "\n  ".join(changed)
        )


def _settings(config: TrainConfig) -> dict[str, Any]:
    """Every field that is not empty, by its dotted name."""
    flat = flatten(config.model_dump(mode="json"))
    return {key: value for key, value in flat.items() if value != "{}"}


def _show(values: Mapping[str, Any], key: str) -> str:
    return repr(values[key]) if key in values else "absent"
