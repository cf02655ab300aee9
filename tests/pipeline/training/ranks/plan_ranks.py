"""Benchmarks of some configurations, and steps of them and of others in turns, for plans to meet.

On one worker the operations of the benchmarked ones are timed too.
"""

import time
from collections.abc import Callable
from contextlib import closing

import common
import torch
import torch.distributed as dist

from pipeline.benchmark.launch import timed_passes
from pipeline.benchmark.measure import Bench, run_trial
from pipeline.benchmark.records import BenchmarkReport
from pipeline.config.benchmark import BenchmarkConfig
from pipeline.data.mixture import open_mixture
from pipeline.data.stream import TrainingStream
from pipeline.storage import open_storage
from pipeline.training.averages import update_averages
from pipeline.training.interval import IntervalMeter
from pipeline.training.loop import step_settings
from pipeline.training.step import train_step
from pipeline.training.trained import Trained
from pipeline.training.worker import TrainJob, run_card, training_stream

ROUNDS = 7
given = common.start()
benchmarked: dict[str, BenchmarkConfig] = given["benchmarked"]
others: dict[str, BenchmarkConfig] = given["others"]
any_config = next(iter(benchmarked.values()))
mixture = open_mixture(any_config.train_paths, any_config.data)


def stream_of(config: BenchmarkConfig) -> TrainingStream:
    job = TrainJob(config, config.train_paths, "", "", "", "", 0.0)
    return training_stream(job, mixture, 0)


def bench_of(config: BenchmarkConfig) -> Bench:
    return Bench(config, run_card(config, mixture.info, "none"), common.CPU)


def step_of(config: BenchmarkConfig, bench: Bench) -> Callable[[], None]:
    """A step with its averages, on the same images again and again."""
    with closing(stream_of(config)) as stream:
        batches = bench.micro_batches(iter(stream))
    meter = IntervalMeter(bench.engine.model.term_names, common.CPU)
    settings = step_settings(bench.engine, config, bench.card.dims)

    def step() -> None:
        train_step(bench.engine, batches, settings, meter)
        update_averages(bench.averages, config.optimizer.ema, 0, bench.engine.weights())

    return step


def report_of(config: BenchmarkConfig, bench: Bench, folder: str) -> BenchmarkReport:
    """What `jobs.benchmark` writes, of this number of workers."""
    trained = Trained.by(config, mixture.info)
    alone = dist.get_world_size() == 1
    passes = timed_passes(config, trained, common.CPU) if alone else ()
    trial = run_trial(bench, lambda: stream_of(config), open_storage(folder))
    return BenchmarkReport(
        name=config.name, zero_stage=config.deepspeed.zero_stage,
        parameters=sum(shape.numel() for shape in bench.engine.shapes.values()),
        training_flops=bench.cost.training_flops, peak_flops=None, state_bytes=bench.state_bytes,
        checkpoint_every_steps=config.checkpoint.every_steps, steps=config.measure.steps,
        repeats=config.measure.repeats, torch=torch.__version__, code="", trials=(trial,),
        other_precision=None, passes=passes,
    )  # fmt: skip


benches = {name: bench_of(config) for name, config in benchmarked.items()}
steps = {name: step_of(config, bench_of(config)) for name, config in others.items()}
steps |= {name: step_of(config, benches[name]) for name, config in benchmarked.items()}
times: dict[str, list[float]] = {name: [] for name in steps}
for _ in range(ROUNDS + 1):
    for name, step in steps.items():
        dist.barrier()
        began = time.perf_counter()
        step()
        times[name].append(time.perf_counter() - began)
common.finish(
    {
        "reports": {
            name: report_of(config, benches[name], f"{common.FOLDER}/{name}")
            for name, config in benchmarked.items()
        },
        "times": {name: found[1:] for name, found in times.items()},
    }
)
