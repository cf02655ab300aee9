"""Everything about a training run that can be refused before workers start."""

import os
from dataclasses import dataclass

from pipeline.checkpoint.record import newest_first
from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.train import TrainConfig
from pipeline.data.manifest import DatasetInfo
from pipeline.data.mixture import open_mixture
from pipeline.data.order import reads_per_sample
from pipeline.data.source import Source
from pipeline.errors import InputError
from pipeline.model.family import Given
from pipeline.planning.fits import check_fits
from pipeline.storage import Location, open_storage
from pipeline.tracking import store_uri
from pipeline.training.deepspeed_json import deepspeed_json
from pipeline.training.run_record import RunRecord, check_same_run, read_run
from pipeline.training.trained import Trained


@dataclass(frozen=True)
class Plan:
    """A training run that has passed every check."""

    config: TrainConfig
    data: DatasetInfo
    epochs: float
    parameters: int
    given: Given
    run: Location
    before: RunRecord | None
    done_steps: int
    tracking_uri: str

    @property
    def workers(self) -> str:
        """How many workers it may have."""
        counts = self.config.cluster.worker_counts
        return f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"

    def text(self) -> str:
        """The plan in words."""
        config, start = self.config, f"continues after step {self.done_steps}"
        data, workers = config.data, config.cluster.worker_counts[-1]
        reads = reads_per_sample(
            workers,
            lanes=data.lanes,
            shuffle_window=data.shuffle_window,
            processes=data.loader_workers or 1,
            micro_batch=config.on_workers(workers).micro_batch,
        )
        again = f", each read {reads} times (see data.lanes)"
        of = f", {self.given.text} {self.given.place}" if self.given else ""
        return (
            f"plan: {config.name} {start if self.before else 'starts'} in {self.run}\n"
            f"  data      {self.data.samples:,} images {self.data.shape}, "
            f"{self.epochs:.1f} epochs{again if reads > 1 else ''}\n"
            f"  model     {config.model.kind}, {self.parameters:,} parameters{of}\n"
            f"  step      {config.data.batch_size} images = {self.workers} workers x "
            f"{config.accumulation} x {config.micro_batch}\n"
            f"  tracking  {self.tracking_uri}\n"
            f"  deepspeed {deepspeed_json(config, self.parameters)}"
        )


def plan_training(config: TrainConfig) -> Plan:
    """Check data, model, DeepSpeed JSON and the run that may exist already; write nothing.

    Raises:
        InputError: names the first thing that is wrong and its remedy.
    """
    check_submitted_paths(config, "storage_path")
    deepspeed_json(config)
    data = config.data
    mixture = open_mixture(config.train_paths, data)
    source = Source(mixture, config.seed, data.lanes, data.shuffle_window, data.transform)
    info = mixture.info
    trained = Trained.by(config, info)
    parameters, given = trained.check(), trained.given
    check_fits(config, parameters, trained)
    storage = config.path(config.storage_path)
    tracking_uri = _tracking_uri(config, storage)
    run = open_storage(storage) / config.name
    before = read_run(run)
    if before is not None:
        if config.resume == "never":
            raise InputError(
                f"run {config.name!r} exists in {run}; set resume=auto to continue it, or choose "
                "another name"
            )
        check_same_run(before, config, info.manifest_sha256, given.sha256 if given else None)
    newest = next(newest_first(run), None)
    return Plan(
        config=config,
        data=info,
        epochs=source.epoch_at(config.steps * data.batch_size).epochs,
        parameters=parameters,
        given=given,
        run=run,
        before=before,
        done_steps=newest[1].step if newest else 0,
        tracking_uri=tracking_uri,
    )


def _tracking_uri(config: TrainConfig, storage: str) -> str:
    if "://" in storage and not (config.tracking.uri or os.environ.get("MLFLOW_TRACKING_URI")):
        raise InputError(
            f"storage_path={storage} cannot hold the SQLite file of MLflow; set tracking.uri or "
            "MLFLOW_TRACKING_URI to a server that driver and workers reach"
        )
    return store_uri(config.tracking.uri, storage)
