"""What a training run shows: metrics, the schedule's curve, a sample grid, checkpoints."""

import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from pipeline.config.train import TrainConfig
from pipeline.data.stream import TrainingStream
from pipeline.metrics import progress_line
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard
from pipeline.plots import image_grid, schedule_figure
from pipeline.storage import Location
from pipeline.tracking import Tracker
from pipeline.training import checkpoint
from pipeline.training.averages import Averages
from pipeline.training.checkpoint import Progress
from pipeline.training.engine import Engine
from pipeline.training.figures import Report
from pipeline.training.time_bins import ProfileWindow
from vdm_core import VDM, sample
from vdm_core.adaptive import at_prior_mean

Upload = Callable[[dict[str, float], Path, str], None]
"""(figures, folder, name): Ray Train's report of a checkpoint, see `checkpoint.Upload`."""
log = logging.getLogger(__name__)
CURVE_POINTS = 201


class RunReporter:
    """Rank 0 holds a tracker and speaks; the other ranks take part in what is collective."""

    def __init__(
        self,
        config: TrainConfig,
        card: ModelCard,
        run: Location,
        stream: TrainingStream,
        tracker: Tracker | None,
        upload: Upload,
        first_step: int,
    ) -> None:
        self.config, self.card, self.run = config, card, run
        self.stream, self.tracker, self.upload = stream, tracker, upload
        self.window = ProfileWindow(first_step)

    def metrics(self, step: int, engine: Engine, figures: Report) -> None:
        """Log one interval's figures, and a line with rate and time left."""
        bad = torch.tensor([float(self.stream.bad_samples.total())], device=engine.device)
        dist.all_reduce(bad)
        if self.tracker is None:
            return
        self.window.add(figures.bins, figures.gammas)
        values = figures.values
        shown = {name: value for name, value in values.items() if name != "train/seconds_left"}
        place = self.stream.epoch_at(step * self.config.data.batch_size)
        data = {"data/bad_samples": float(bad), "data/epoch": place.epochs}
        self.tracker.metrics(step, shown | data)
        log.info(progress_line(step, self.config.steps, values))

    def pictures(self, step: int, engine: Engine, averages: Averages) -> None:
        """Draw γ(t), live and EMA, and a grid of EMA samples, `picture_images` of them.

        EMA is the first of the averages.
        """
        times = torch.linspace(0.0, 1.0, CURVE_POINTS)
        live = engine.schedule_at(times)
        weights = engine.gather(averages[self.card.average.name])
        if self.tracker is None:
            return
        vdm = self._vdm(weights, engine.device)
        with torch.no_grad():
            ema = at_prior_mean(vdm.schedule, times.to(engine.device))
        note = "at latent 0" if vdm.latent_dim is not None else None
        self.tracker.figure(step, "schedule", schedule_figure(times, live, ema, note=note))
        self.tracker.image(step, "samples", self._grid(vdm, engine.device))

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

    def _vdm(self, weights: dict[str, Tensor], device: torch.device) -> VDM:
        card = self.card
        vdm = build_vdm(card.model, card.shape, card.classes, seed=0, levels=card.levels)
        vdm.load_state_dict(weights)
        return vdm.to(device).eval()

    def _grid(self, vdm: VDM, device: torch.device) -> NDArray[np.uint8]:
        count, classes = self.config.tracking.picture_images, self.card.classes
        ids = torch.arange(count, device=device)
        labels = ids % classes if classes and self.card.model.conditional else None
        images = sample(
            vdm,
            ids,
            labels,
            shape=self.card.shape,
            steps=self.config.tracking.picture_steps,
            seed=self.config.seed,
        )
        return image_grid(images.cpu(), columns=classes or 10)
