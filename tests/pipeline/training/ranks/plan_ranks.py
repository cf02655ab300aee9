"""A benchmark of one configuration, and steps of it and of others in turns, for a plan to meet.

Steps are timed in CPU time of this process, which other work on the machine hardly touches.
"""

import time
from collections.abc import Callable
from contextlib import closing

import common
import torch.distributed as dist

from pipeline.benchmark.measure import Bench, run_trial
from pipeline.config.benchmark import BenchmarkConfig
from pipeline.data.mixture import open_mixture
from pipeline.data.stream import TrainingStream
from pipeline.storage import open_storage
from pipeline.training.averages import update_averages
from pipeline.training.interval import IntervalMeter
from pipeline.training.loop import step_settings
from pipeline.training.step import train_step
from pipeline.training.worker import TrainJob, run_card, training_stream

ROUNDS = 5
given = common.start()
base: BenchmarkConfig = given["base"]
mixture = open_mixture(base.train_paths, base.data)
card = run_card(base, mixture.info, "none")


def stream_of(config: BenchmarkConfig) -> TrainingStream:
    return training_stream(TrainJob(config, config.train_paths, "", "", "", "", 0.0), mixture, 0)


def step_of(config: BenchmarkConfig, bench: Bench) -> Callable[[], None]:
    """A step with its averages, on the same images again and again."""
    with closing(stream_of(config)) as stream:
        batches = bench.micro_batches(iter(stream))
    meter = IntervalMeter(bench.engine.model.term_names, common.CPU)
    settings = step_settings(bench.engine, config, card.dims)
    ema = config.optimizer.ema

    def step() -> None:
        train_step(bench.engine, batches, settings, meter)
        update_averages(bench.averages, ema, 0, bench.engine.weights())

    return step


first = Bench(base, card, common.CPU)
trial = run_trial(first, lambda: stream_of(base), open_storage(f"{common.FOLDER}/checkpoints"))
steps = {"base": step_of(base, first)}
for name, other in given["others"].items():
    steps[name] = step_of(other, Bench(other, run_card(other, mixture.info, "none"), common.CPU))
times: dict[str, list[float]] = {name: [] for name in steps}
for _ in range(ROUNDS + 1):
    for name, step in steps.items():
        began = time.process_time()
        step()
        times[name].append(time.process_time() - began)
assert dist.get_world_size() == 1
common.finish(
    {
        "trial": trial,
        "state_bytes": first.state_bytes,
        "flops": first.cost.training_flops,
        "times": {name: found[1:] for name, found in times.items()},
    }
)
