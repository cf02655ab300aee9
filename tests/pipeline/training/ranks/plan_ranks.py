"""A benchmark of one configuration, whole, and the steps of others, for a plan to be held against.

Every worker has as many images as `data.batch_size` says for the most workers.
"""

from contextlib import closing

import common
import torch.distributed as dist

from pipeline.benchmark.measure import Bench, run_trial
from pipeline.config.benchmark import BenchmarkConfig
from pipeline.data.mixture import open_mixture
from pipeline.data.stream import TrainingStream
from pipeline.storage import open_storage
from pipeline.training.worker import TrainJob, run_card, training_stream

given = common.start()
base: BenchmarkConfig = given["base"].trial(dist.get_world_size())
mixture = open_mixture(base.train_paths, base.data.train, base.data.select, None)


def bench_of(config: BenchmarkConfig) -> Bench:
    return Bench(config, run_card(config, mixture.info, "none"), common.CPU)


def stream_of(config: BenchmarkConfig) -> TrainingStream:
    return training_stream(TrainJob(config, config.train_paths, "", "", "", "", 0.0), mixture, 0)


first = bench_of(base)
trial = run_trial(first, lambda: stream_of(base), open_storage(f"{common.FOLDER}/checkpoints"))
found = {"trial": trial, "state_bytes": first.state_bytes, "flops": first.cost.training_flops}
for name, other in given["others"].items():
    bench = bench_of(other)
    with closing(stream_of(other)) as stream:
        found[name] = bench.compute(bench.micro_batches(iter(stream))).step.median
common.finish(found)
