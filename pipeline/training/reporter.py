"""What a training run shows and keeps: metrics and pictures through rank 0, and checkpoints."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
import torch.distributed as dist

from pipeline.config.train import TrainConfig
from pipeline.data.stream import TrainingStream
from pipeline.model.export import ModelCard
from pipeline.storage import Location
from pipeline.training import checkpoint
from pipeline.training.averages import Averages
from pipeline.training.checkpoint import Progress
from pipeline.training.engine import Engine
from pipeline.training.figures import Report
from pipeline.training.narrator import Narrator
from pipeline.training.pictures import CURVE_TIMES

Upload = Callable[[dict[str, float], Path, str], None]
"""(figures, folder, name): Ray Train's report of a checkpoint, see `checkpoint.Upload`."""
log = logging.getLogger(__name__)


class RunReporter:
    """Rank 0 holds a narrator and speaks; the other ranks take part in what is collective."""

    def __init__(
        self,
        config: TrainConfig,
        card: ModelCard,
        run: Location,
        stream: TrainingStream,
        narrator: Narrator | None,
        upload: Upload,
    ) -> None:
        self.config, self.card, self.run = config, card, run
        self.stream, self.narrator, self.upload = stream, narrator, upload

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
        """Save and commit the state after `step`."""
        figures = {"step": float(step), "bits_per_dim": values["train/bits_per_dim"]}
        checkpoint.save(
            engine,
            averages,
            Progress(step, step * self.config.data.batch_size),
            self.card.model_copy(update={"step": step}),
            self.run,
            partial(self.upload, figures),
            keep=self.config.checkpoint.keep,
            zero_stage=self.config.deepspeed.zero_stage,
        )
        if dist.get_rank() == 0:
            log.info("step %d: checkpoint committed in %s", step, self.run)
