"""The training of the golden curve, by the real stream, loop and engine, at every ZeRO stage."""

from contextlib import closing
from typing import Any

import common

from pipeline.config.train import TrainConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.mixture import single
from pipeline.model.build import build_vdm
from pipeline.training.averages import start_averages
from pipeline.training.engine import Engine
from pipeline.training.figures import Report
from pipeline.training.loop import LoopState, train
from pipeline.training.worker import TrainJob, training_stream

SHAPE, CLASSES, DIMS = (1, 28, 28), 10, 28 * 28


class Curve:
    """Keeps the loss of every step."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def metrics(self, step: int, engine: Any, figures: Report) -> None:
        self.losses.append(figures.values["train/bits_per_dim"])

    def pictures(self, step: int, engine: Any, averages: Any) -> None:
        """Nothing to draw."""

    def checkpoint(self, step: int, engine: Any, averages: Any, values: Any) -> None:
        """Nothing to keep."""


def curve(config: TrainConfig) -> list[float]:
    vdm = build_vdm(config.model, SHAPE, CLASSES, config.seed, levels=256)
    engine, recorder = Engine(vdm, config, common.CPU), Curve()
    state = LoopState(0, start_averages(config.optimizer.ema, engine.weights()))
    job = TrainJob(config, config.train_paths, "", "", "", "", 0.0)
    mixture = single(open_dataset(*job.data))
    with closing(training_stream(job, mixture, 0)) as stream:
        train(engine, iter(stream), config, DIMS, state, recorder, common.Signals())
    return recorder.losses


configs = common.start()
common.finish({stage: curve(config) for stage, config in configs["stages"].items()})
