"""What every training worker runs: assemble, restore, train, and say how it ended.

Ray Train calls `train_worker` on each rank after it has set up `torch.distributed`.
"""

import json
import logging
import time
import traceback
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from ray.train.torch import get_device

from pipeline.config.train import TrainConfig
from pipeline.data.manifest import DatasetInfo
from pipeline.data.mixture import Mixture, open_mixture
from pipeline.data.stream import TrainingStream
from pipeline.data.transform import seen_shape
from pipeline.errors import InputError
from pipeline.logs import set_up_logging
from pipeline.model.average_record import AverageRecord
from pipeline.model.export import RunCard
from pipeline.model.family import Given, build_family, resolved
from pipeline.model.given import FrozenSchedule
from pipeline.storage import Location, open_storage
from pipeline.tracking import Tracker
from pipeline.tracking.system_metrics import SystemMetrics
from pipeline.training.agreement import AgreedInputError, raise_together
from pipeline.training.averages import start_averages
from pipeline.training.checkpoint import Checkpoints, Progress
from pipeline.training.compute_cost import compute_cost
from pipeline.training.engine import Engine
from pipeline.training.finite import NonFiniteStepError
from pipeline.training.islands import check_islands
from pipeline.training.loop import LoopState, train
from pipeline.training.monitor import CrashLoopError
from pipeline.training.narrator import Narrator
from pipeline.training.reporter import RunReporter
from pipeline.training.restore import restore
from pipeline.training.shared_storage import check_shared
from pipeline.training.signals import DriverLine

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainJob:
    """All that a worker is told. Every path is a URL or absolute: workers run elsewhere."""

    config: TrainConfig
    data: tuple[str, ...]
    run: str
    journal: str
    tracking_uri: str
    mlflow_run_id: str
    submitted: float  # seconds since 1970
    given: Given = None


def train_worker(settings: dict[str, Any]) -> int | Exception:
    """Train; return the steps done or, rather than raise it, an error that no restart mends.

    Such an error meets all ranks at once; the driver raises it. Any other one is told to the
    driver first, so that it is not taken for a consequence of its consequences.

    Args:
        settings: a `TrainJob` as "job" and the actor of the run's `RunMonitor` as "monitor".
    """
    line = DriverLine(settings["monitor"], dist.get_rank())
    try:
        with line:
            return train_run(settings["job"], line)
    except (FloatingPointError, AgreedInputError, CrashLoopError) as error:
        return error
    except Exception:  # whatever it is: the driver is told first, and it goes on up
        line.failed(traceback.format_exc())
        raise


def train_run(job: TrainJob, line: DriverLine) -> int:
    """Train from the newest whole checkpoint, or from the start; return the steps done."""
    started, rank = time.time(), dist.get_rank()
    config = job.config.on_workers(dist.get_world_size())
    job = replace(job, config=config)
    set_up_logging()
    for name in (None, "ray.train"):  # Ray has lowered them; every rank would announce each report
        logging.getLogger(name).setLevel(logging.WARNING)
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)  # collectives of Python objects use the current device
    mixture = open_data(job)
    run = open_storage(job.run)
    card = run_card(config, mixture.info, job.mlflow_run_id, job.given)
    model = build_family(
        config.model, card.shape, card.classes, config.seed, card.levels, job.given
    )
    cost = compute_cost(model, card.shape, config, device, dist.get_world_size())
    check_shared(run)
    engine = Engine(model, config, device)
    check_islands(engine, card.shape, config.model.conditional)

    restored = restore(engine, run)
    progress, averages = restored or (
        Progress(0, 0),
        start_averages(config.optimizer.ema, engine.weights()),
    )
    if rank == 0 and restored:
        log.info("continuing %s after step %d", config.name, progress.step)
    state = LoopState(progress.step, averages)
    with ExitStack() as stack:
        tracker = Tracker(job.tracking_uri, job.mlflow_run_id, job.journal) if rank == 0 else None
        narrator, system = None, system_metrics(job, device)
        if system:
            stack.callback(system.close)
        if tracker:
            stack.callback(tracker.close)
            tracker.json("deepspeed.json", engine.deepspeed_json)
            tracker.json("dataset.json", asdict(mixture.info))
            narrator = Narrator(tracker, config, card, cost, model.term_names)
            narrator.begin(job.submitted, started, progress.step)
        checkpoints = stack.enter_context(Checkpoints(run, config, card))
        snapshots = stack.enter_context(Checkpoints(run, config, card, snapshots=True))
        stream = stack.enter_context(closing(training_stream(job, mixture, progress.next_index)))
        reporter = RunReporter(config, card, stream, narrator, checkpoints, snapshots)
        try:
            done = train(engine, iter(stream), config, card.dims, state, reporter, line)
        except NonFiniteStepError as error:
            name = f"nonfinite_step_{error.step}.json"
            if tracker:
                write_report(run / name, error.report)
                tracker.json(name, error.report)
            raise FloatingPointError(f"{error}. Its examples are in {run / name}") from error
        checkpoints.settle()
        snapshots.settle()
        return done


def system_metrics(job: TrainJob, device: torch.device) -> SystemMetrics | None:
    """Watch this machine, from the first of the workers on it, if that is wished."""
    first = ray.train.get_context().get_local_rank() == 0
    if not (first and job.config.tracking.system_metrics):
        return None
    node = f"node_{ray.train.get_context().get_node_rank()}"
    folder, gpu = Path(job.journal).parent, device.type == "cuda"
    return SystemMetrics(job.tracking_uri, job.mlflow_run_id, folder, node, gpu=gpu)


def open_data(job: TrainJob) -> Mixture:
    """The training data. Collective: what one rank cannot read stops all.

    Raises:
        AgreedInputError: a data set is not as it was when the job was submitted.
    """
    mixture, problem = None, None
    try:
        mixture = open_mixture(job.data, job.config.data)
    except InputError as error:
        problem = error
    raise_together(problem)
    assert mixture is not None
    return mixture


def write_report(place: Location, report: dict[str, Any]) -> None:
    """Write a JSON file into the run, if that can be done: the error it is about comes first."""
    try:
        place.write_bytes(json.dumps(report, indent=2, allow_nan=False).encode())
    except InputError as error:
        log.error("%s", error)


def training_stream(job: TrainJob, mixture: Mixture, start: int) -> TrainingStream:
    """This rank's part of the training sequence from global sample index `start` on."""
    data = job.config.data
    return TrainingStream(
        mixture,
        seed=job.config.seed,
        global_batch=data.batch_size,
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        micro_batch=job.config.micro_batch,
        lanes=data.lanes,
        shuffle_window=data.shuffle_window,
        on_bad_sample=data.on_bad_sample,
        max_bad_fraction=data.max_bad_fraction,
        transform=data.transform,
        loader_workers=data.loader_workers,
        start=start,
    )


def run_card(
    config: TrainConfig, info: DatasetInfo, mlflow_run_id: str, given: Given = None
) -> RunCard:
    """The card that this run's exports carry; `step` is filled in when they are written."""
    return RunCard(
        model=resolved(config.model, given),
        shape=seen_shape(config.data.transform, info.shape),
        levels=info.levels,
        classes=info.classes,
        class_names=info.class_names,
        step=0,
        run=config.name,
        mlflow_run_id=mlflow_run_id,
        dataset_digest=info.manifest_sha256,
        schedule_sha256=given.sha256 if isinstance(given, FrozenSchedule) else "",
        average=AverageRecord(**config.optimizer.ema[0].model_dump()),
    )
