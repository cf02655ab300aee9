"""Train a model on a sharded image set: a VDM, a VAE, a VDM of latents, a classifier to guide one.

    python -m jobs.train --config jobs/presets/fashion_mnist_cpu.yaml steps=2000
    ray job submit --working-dir . -- python -m jobs.train --config ... root=/shared/folder

The run `name` in `storage_path` holds everything: run it again and it continues. SIGTERM, Ctrl-C
and `ray job stop` let it save and leave within `cluster.grace_seconds`.
"""

import logging
import sys
import tempfile
import time
from pathlib import Path
from threading import Event
from urllib.parse import quote

from jobs.cli import StopSignals, run
from pipeline.cluster.connect import connected
from pipeline.cluster.submitted import warn_of_short_stop
from pipeline.config.train import TrainConfig
from pipeline.metrics import flatten
from pipeline.tracking import (
    DatasetUse,
    Status,
    Tracker,
    close_run,
    open_run,
    origin,
    prepare_store,
)
from pipeline.training.launch import GraceExceededError, await_resources, job_id, run_training
from pipeline.training.lease import Lease
from pipeline.training.preflight import Plan, plan_training
from pipeline.training.register import register_model
from pipeline.training.run_note import run_note
from pipeline.training.run_record import RunRecord, write_run
from pipeline.training.worker import TrainJob

log = logging.getLogger(__name__)


def main(config: TrainConfig) -> None:
    """Check, connect, take the run for this process alone, and train."""
    submitted = time.time()
    plan = plan_training(config)
    log.info("%s", plan.text())
    if plan.done_steps >= config.steps:
        log.info("%s has done its %d steps already", config.name, config.steps)
        if plan.before is not None:
            finish_record(plan, plan.before)
        return
    with connected():
        await_resources(config.cluster)
        warn_of_short_stop(config.cluster.grace_seconds)
        signals = StopSignals()
        with Lease(plan.run, job_id(), on_loss=signals.requested.set):
            done = train(plan, submitted, signals.requested)
    if done < config.steps:
        log.info("run %s stopped after step %d; run it again to continue", config.name, done)
        sys.exit(signals.exit_code)
    log.info("run %s finished: checkpoints in %s", config.name, plan.run)


def finish_record(plan: Plan, run: RunRecord) -> None:
    """Hand MLflow what it may not have got of a finished run: it, or the driver, was away."""
    prepare_store(run.tracking_uri)
    Tracker(run.tracking_uri, run.mlflow_run_id, journal_path(plan)).close()
    close_run(run.tracking_uri, run.mlflow_run_id, "FINISHED")
    if plan.config.tracking.log_model:
        register_model(plan.run, plan.config.tracking, run.tracking_uri, run.mlflow_run_id)


def train(plan: Plan, submitted: float, stop: Event) -> int:
    """Run the workers, and close the MLflow run with how it ended; returns the steps done."""
    config, job = plan.config, open_job(plan, submitted)
    status: Status = "FAILED"
    try:
        done = run_training(job, config.path(config.storage_path), stop)
        if done >= config.steps and config.tracking.log_model:
            register_model(plan.run, config.tracking, job.tracking_uri, job.mlflow_run_id)
        status = "FINISHED" if done >= config.steps else "KILLED"
    except (KeyboardInterrupt, SystemExit, GraceExceededError):
        status = "KILLED"
        raise
    finally:
        close_run(job.tracking_uri, job.mlflow_run_id, status)
    return done


def open_job(plan: Plan, submitted: float) -> TrainJob:
    """Open (or reopen) the MLflow run and write the run's record: the first things written."""
    config = plan.config
    prepare_store(plan.tracking_uri)
    mlflow_run_id = open_run(
        plan.tracking_uri,
        config.tracking.experiment,
        config.name,
        flatten(config.model_dump(mode="json")),
        run_id=plan.before.mlflow_run_id if plan.before else None,
        tags=origin("train", run_note(plan)),
        data=_data_of(plan),
    )
    record = RunRecord(
        config=config,
        dataset_digest=plan.data.manifest_sha256,
        given_sha256=plan.given.sha256 if plan.given else None,
        mlflow_run_id=mlflow_run_id,
        tracking_uri=plan.tracking_uri,
    )
    write_run(plan.run, record)
    return TrainJob(
        config=config,
        data=config.train_paths,
        run=str(plan.run),
        journal=journal_path(plan),
        tracking_uri=plan.tracking_uri,
        mlflow_run_id=mlflow_run_id,
        submitted=submitted,
        given=plan.given,
    )


def _data_of(plan: Plan) -> DatasetUse:
    """The training set for the run's page; of a mixture, all its places in one line."""
    urls, info = plan.config.train_paths, plan.data
    return DatasetUse(
        name=" + ".join("/".join(url.rstrip("/").split("/")[-2:]) for url in urls),
        digest=info.manifest_sha256,
        url=", ".join(urls),
        samples=info.samples,
        context="training",
    )


def journal_path(plan: Plan) -> str:
    """The metrics journal: in the run's folder, or for a URL in this machine's temporary folder."""
    run = plan.run.url
    elsewhere = Path(tempfile.gettempdir(), "vdm-journals", quote(run, safe=""))
    return str((elsewhere if "://" in run else Path(run)) / "journal.jsonl")


if __name__ == "__main__":
    sys.exit(run(TrainConfig, main, plan=lambda c: plan_training(c).text(), description=__doc__))
