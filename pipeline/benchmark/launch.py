"""The trials of a benchmark on a Ray cluster: one group of workers after the other."""

import logging
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import torch
from ray.train import RunConfig, TrainingFailedError
from ray.train.torch import get_device

from pipeline.benchmark.measure import Bench, run_trial
from pipeline.benchmark.operations import time_passes
from pipeline.benchmark.plan import Plan
from pipeline.benchmark.records import BenchmarkReport, PassTiming, StepTiming, Trial
from pipeline.code_version import code_version
from pipeline.config.benchmark import BenchmarkConfig
from pipeline.errors import RunFailedError
from pipeline.logs import set_up_logging
from pipeline.storage import open_storage
from pipeline.training.agreement import AgreedInputError
from pipeline.training.launch import trainer
from pipeline.training.trained import Trained
from pipeline.training.worker import TrainJob, open_data, run_card, training_stream

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """What rank 0 of a group brings home."""

    trial: Trial | StepTiming
    state_bytes: int
    training_flops: int
    peak_flops: float | None
    passes: tuple[PassTiming, ...] = ()


def run_benchmark(plan: Plan) -> BenchmarkReport:
    """Run every trial, the smallest group first, and the other precision on the largest.

    Checkpoints and Ray's own files go into a folder beside the output, deleted at the end.

    Raises:
        RunFailedError: a group of workers failed.
        InputError: the data set cannot be read.
    """
    config = plan.config
    trials: list[Trial] = []
    passes: tuple[PassTiming, ...] = ()
    try:
        for workers in config.worker_counts:
            log.info("measuring %d workers", workers)
            first = not trials
            found = _run_group(
                plan, config.trial(workers), whole=True, passes=first and config.measure.operations
            )
            assert isinstance(found.trial, Trial)
            trials.append(found.trial)
            passes += found.passes
        other = None
        if config.measure.both_precisions:
            other_config = config.trial(config.most_workers).other_precision
            log.info("measuring %s", other_config.deepspeed.precision)
            other = _run_group(plan, other_config, whole=False, passes=False).trial
            assert isinstance(other, StepTiming)
    finally:
        plan.scratch.delete_folder()
    return BenchmarkReport(
        name=config.name,
        zero_stage=config.deepspeed.zero_stage,
        parameters=plan.parameters,
        training_flops=found.training_flops,
        peak_flops=found.peak_flops,
        state_bytes=found.state_bytes,
        checkpoint_every_steps=config.checkpoint.every_steps,
        steps=config.measure.steps,
        repeats=config.measure.repeats,
        torch=torch.__version__,
        code=code_version(),
        trials=tuple(trials),
        passes=passes,
        other_precision=other,
    )


def _run_group(plan: Plan, config: BenchmarkConfig, *, whole: bool, passes: bool) -> Found:
    name = f"{config.most_workers}-{config.deepspeed.precision}"
    given = {
        "config": config,
        "schedule": plan.given,
        "scratch": str(plan.scratch / f"checkpoints-{name}"),
        "whole": whole,
        "passes": passes,
    }
    run = RunConfig(name=name, storage_path=plan.scratch.url)
    try:
        found = trainer(_measure, given, config.cluster, run).fit().return_value
    except TrainingFailedError as error:
        raise RunFailedError(f"the workers of trial {name} failed: {error}") from None
    if isinstance(found, Exception):
        raise found
    assert isinstance(found, Found)
    return found


def _measure(given: dict[str, Any]) -> Found | AgreedInputError:
    """What every worker runs; returns an error that all ranks meet, for the driver to raise."""
    set_up_logging()
    logging.getLogger("ray.train").setLevel(logging.WARNING)
    config: BenchmarkConfig = given["config"]
    device = get_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    job = TrainJob(config, config.train_paths, given["scratch"], "", "", "", 0.0, given["schedule"])
    try:
        mixture = open_data(job)
        card = run_card(config, mixture.info, "none", job.given)
        trained = Trained.by(config, mixture.info)
        passes = timed_passes(config, trained, device) if given["passes"] else ()
        bench = Bench(config, card, device, job.given)
        if given["whole"]:
            scratch = open_storage(given["scratch"])
            trial: Trial | StepTiming = run_trial(
                bench, lambda: training_stream(job, mixture, 0), scratch
            )
        else:
            with closing(training_stream(job, mixture, 0)) as stream:
                trial = bench.compute(bench.micro_batches(iter(stream)))
    except AgreedInputError as error:
        return error
    cost = bench.cost
    return Found(trial, bench.state_bytes, cost.training_flops, cost.peak, passes)


def timed_passes(
    config: BenchmarkConfig, trained: Trained, device: torch.device
) -> tuple[PassTiming, ...]:
    """At the run's micro-batch and at a quarter of it, before the engine takes its memory."""
    bfloat16 = config.deepspeed.precision == "bfloat16"
    sizes = sorted({config.micro_batch, -(-config.micro_batch // 4)})
    return tuple(
        time_passes(trained, size, config.measure.repeats, device, bfloat16=bfloat16)
        for size in sizes
    )
