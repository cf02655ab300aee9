"""The MLflow run of one sampling or evaluation, nested under the training run of its model."""

import logging
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.model.export import ModelCard
from pipeline.storage import Location, open_storage
from pipeline.tracking import Status, Tracker, close_run, open_run
from pipeline.tracking.address import sqlite_path
from pipeline.tracking.request import RunRequest
from pipeline.training.run_record import RunRecord, read_run

log = logging.getLogger(__name__)


@contextmanager
def nested_run(
    model: Location, card: ModelCard, job: str, params: Mapping[str, Any]
) -> Iterator[Tracker | None]:
    """Open the run, yield its tracker, and close it with how the block ended.

    `model` is a checkpoint's folder. What is tracked is kept in the job's own output too, so where
    the training run or its store cannot be reached, one line says so and None is yielded.
    """
    training = _training_run(model)
    run_id = None if training is None else _open(training, card, job, params)
    if training is None or run_id is None:
        yield None
        return
    status: Status = "FAILED"
    with tempfile.TemporaryDirectory(prefix="vdm-journal-") as folder:
        tracker = Tracker(training.tracking_uri, run_id, Path(folder) / "journal.jsonl")
        try:
            yield tracker
            status = "FINISHED"
        except (KeyboardInterrupt, SystemExit):
            status = "KILLED"
            raise
        finally:
            tracker.close()
            close_run(training.tracking_uri, run_id, status)


def _training_run(model: Location) -> RunRecord | None:
    """The record of the run that the checkpoint `model` lies in, if its store is there."""
    folder = open_storage(model.url.rpartition("/")[0])
    record = read_run(folder)
    if record is None:
        log.info("not tracked: %s is not in the folder of a training run", model)
        return None
    store = sqlite_path(record.tracking_uri)
    if store is not None and not store.exists():
        log.info("not tracked: the run's MLflow store %s is not here", store)
        return None
    return record


def _open(training: RunRecord, card: ModelCard, job: str, params: Mapping[str, Any]) -> str | None:
    """The id of the new run; None if the server does not answer."""
    run_id = open_run(
        training.tracking_uri,
        training.config.tracking.experiment,
        f"{card.run} {job} after step {card.step}",
        params,
        tags={"job": job, "model.weights_sha256": card.weights_sha256},
        parent_run_id=training.mlflow_run_id,
    )
    if RunRequest.from_run_id(run_id) is None:
        return run_id
    log.info("not tracked: this job's results are in its output folder only")
    return None
