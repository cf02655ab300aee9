"""Runs that keep several averages, and snapshots of them, at each ZeRO stage; one interrupted."""

from contextlib import closing
from typing import Any

import common
import torch
import torch.distributed as dist

from pipeline.config.train import TrainConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.mixture import single
from pipeline.storage import open_storage
from pipeline.training.averages import Averages, start_averages
from pipeline.training.checkpoint import Checkpoints, Progress
from pipeline.training.loop import LoopState, train
from pipeline.training.reporter import RunReporter
from pipeline.training.restore import restore
from pipeline.training.worker import TrainJob, run_card, training_stream


class Watching(RunReporter):
    """The real reporter, without a tracker, which also keeps the weights after every step."""

    path: list[dict[str, torch.Tensor]]

    def metrics(self, step: int, engine: Any, figures: Any) -> None:
        super().metrics(step, engine, figures)
        self.path.append(engine.gather(engine.weights()))


def fit(config: TrainConfig, run: str, stop: int | None = None) -> dict[str, Any]:
    """One life of a run: its averages at the end, and the weights on the way."""
    job = TrainJob(config, config.train_paths, run, "", "", "", 0.0)
    mixture, at = single(open_dataset(*job.data)), open_storage(run)
    engine, card = common.engine(config), run_card(config, mixture.info, "none")
    progress, averages = restore(engine, at) or (
        Progress(0, 0),
        start_averages(config.optimizer.ema, engine.weights()),
    )
    stream = training_stream(job, mixture, progress.next_index)
    with (
        closing(stream),
        Checkpoints(at, config, card) as checkpoints,
        Checkpoints(at, config, card, snapshots=True) as snapshots,
    ):
        reporter = Watching(config, card, stream, None, checkpoints, snapshots)
        reporter.path = []
        state = LoopState(progress.step, averages)
        train(engine, iter(stream), config, card.dims, state, reporter, common.Signals(stop))
        checkpoints.settle()
        snapshots.settle()
    return {"first": progress.step, "path": reporter.path, "averages": gathered(engine, averages)}


def gathered(engine: Any, averages: Averages) -> dict[str, dict[str, torch.Tensor]]:
    """Whole averages by name."""
    return {name: engine.gather(track) for name, track in averages.items()}


arguments = common.start()
result = {}
for name, config in arguments.items():
    result[name] = fit(config, f"{common.FOLDER}/{name}")
    if config.deepspeed.zero_stage == 1:
        fit(config, f"{common.FOLDER}/interrupted", stop=7)
        dist.barrier()
        result["interrupted"] = fit(config, f"{common.FOLDER}/interrupted")
common.finish(result)
