"""Runs of `jobs.train` without Ray: stream, engine, loop; what each step's loss was."""

from contextlib import closing

import common

from pipeline.config.train import TrainConfig
from pipeline.data.mixture import open_mixture
from pipeline.model.family import build_family
from pipeline.training.averages import start_averages
from pipeline.training.engine import Engine
from pipeline.training.figures import Report
from pipeline.training.islands import check_islands
from pipeline.training.loop import LoopState, train
from pipeline.training.worker import TrainJob, run_card, training_stream


class Listener:
    """Keeps the losses in bits/dim."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def metrics(self, step: int, engine: Engine, figures: Report) -> None:
        self.losses.append(figures.values["train/bits_per_dim"])

    def pictures(self, *arguments: object) -> None: ...

    def checkpoint(self, *arguments: object) -> None: ...

    def snapshot(self, *arguments: object) -> None: ...


def losses(config: TrainConfig) -> list[float]:
    mixture = open_mixture(config.train_paths, config.data)
    card = run_card(config, mixture.info, "none")
    model = build_family(config.model, card.shape, card.classes, config.seed, card.levels)
    engine, listener = Engine(model, config, common.CPU), Listener()
    check_islands(engine, card.shape, config.model.conditional)
    state = LoopState(0, start_averages(config.optimizer.ema, engine.weights()))
    job = TrainJob(config, config.train_paths, "", "", "", "", 0.0)
    with closing(training_stream(job, mixture, 0)) as stream:
        train(engine, iter(stream), config, card.dims, state, listener, common.Signals())
    return listener.losses


common.finish({name: losses(config) for name, config in common.start().items()})
