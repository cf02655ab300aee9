"""What a training run shows and keeps: metrics and pictures through rank 0, and checkpoints."""

import torch
import torch.distributed as dist

from pipeline.config.train import TrainConfig
from pipeline.data.stream import TrainingStream
from pipeline.model.export import RunCard
from pipeline.training.averages import Averages
from pipeline.training.checkpoint import Checkpoints, Progress
from pipeline.training.engine import Engine
from pipeline.training.figures import Report
from pipeline.training.narrator import Narrator
from pipeline.training.pictures import CURVE_TIMES


class RunReporter:
    """Rank 0 holds a narrator and speaks; the other ranks take part in what is collective."""

    def __init__(
        self,
        config: TrainConfig,
        card: RunCard,
        stream: TrainingStream,
        narrator: Narrator | None,
        checkpoints: Checkpoints,
        snapshots: Checkpoints,
    ) -> None:
        self.config, self.card = config, card
        self.checkpoints, self.snapshots = checkpoints, snapshots
        self.stream, self.narrator = stream, narrator

    def metrics(self, step: int, engine: Engine, figures: Report) -> None:
        """Tell one interval's figures."""
        bad = torch.tensor([float(self.stream.bad_samples.total())], device=engine.device)
        dist.all_reduce(bad)
        if self.narrator is None:
            return
        place = self.stream.epoch_at(step * self.config.data.batch_size)
        data = {"data/bad_samples": float(bad), "data/epoch": place.epochs}
        self.narrator.metrics(step, figures, data)

    def pictures(self, step: int, engine: Engine, averages: Averages) -> None:
        """Have the ELBO, the schedule and samples of the first of the averages drawn."""
        live = engine.schedule_at(CURVE_TIMES)
        weights = engine.gather(averages[self.card.average.name])
        if self.narrator is not None:
            self.narrator.pictures(step, live, weights, engine.device)

    def checkpoint(
        self, step: int, engine: Engine, averages: Averages, values: dict[str, float]
    ) -> None:
        """Begin to save the state after `step`; the training waits for a copy of it only."""
        stall = self._save(self.checkpoints, step, engine, averages, values)
        if self.narrator is not None:
            self.narrator.saved(step, stall)

    def snapshot(
        self, step: int, engine: Engine, averages: Averages, values: dict[str, float]
    ) -> None:
        """Begin to save the averages that have a width, for averages chosen after training."""
        self._save(self.snapshots, step, engine, averages, values)

    def _save(
        self,
        where: Checkpoints,
        step: int,
        engine: Engine,
        averages: Averages,
        values: dict[str, float],
    ) -> float:
        progress = Progress(step, step * self.config.data.batch_size)
        return where.save(engine, averages, progress, values["train/bits_per_dim"])
