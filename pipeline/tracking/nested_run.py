"""The MLflow run of one sampling or evaluation, nested under the training run of its model."""

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from pipeline.model.export import ModelCard
from pipeline.redact import redact_text
from pipeline.storage import Location, open_storage
from pipeline.tracking import DatasetUse, Status, Tracker, open_run, origin
from pipeline.tracking.address import gets_login, sqlite_path
from pipeline.tracking.waiting import WaitingRun, send_waiting
from pipeline.training.run_record import RECORD, RunRecord, read_run

log = logging.getLogger(__name__)


@contextmanager
def nested_run(
    model: Location,
    card: ModelCard,
    job: str,
    params: Mapping[str, Any],
    output: Location,
    data: DatasetUse | None = None,
) -> Iterator[Tracker | None]:
    """Open the run, yield its tracker, and close it with how the block ended.

    `model` is a checkpoint's folder, `data` what the job reads. While the server is away, what is
    tracked waits beside the job's `output` and is sent by the next job with that output. Where
    `model` is in no training run, or the run's store is not here, one line says so and None is
    yielded.
    """
    send_waiting(output)
    training = _training_run(model)
    if training is None:
        yield None
        return
    status: Status = "FAILED"
    run_id = _open(training, card, job, params, output, data)
    run = WaitingRun.begin(output, training.tracking_uri, run_id)
    tracker = run.tracker()
    try:
        yield tracker
        status = "FINISHED"
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        run.end(tracker, status)


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
    if store is None and not gets_login(record.tracking_uri):
        log.warning(
            "not tracked: %s says that its MLflow is at %s, and a login goes to "
            "MLFLOW_TRACKING_URI alone; set it to that address, if it is yours",
            folder / RECORD,
            redact_text(record.tracking_uri),
        )
        return None
    return record


def _open(
    training: RunRecord,
    card: ModelCard,
    job: str,
    params: Mapping[str, Any],
    output: Location,
    data: DatasetUse | None,
) -> str:
    """The id of the new run, a deferred one if the server does not answer."""
    return open_run(
        training.tracking_uri,
        training.config.tracking.experiment,
        f"{card.run} {job} after step {card.step}",
        params,
        tags=origin(job, f"Its output: `{output}`")
        | {"job": job, "model.weights_sha256": card.weights_sha256},
        parent_run_id=training.mlflow_run_id,
        data=data,
    )
