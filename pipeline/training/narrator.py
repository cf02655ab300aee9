"""What rank 0 of a training run tells: metrics, a line for people, pictures; over all its lives."""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.config.model import ScheduledClassifierConfig
from pipeline.config.train import TrainConfig
from pipeline.metrics import progress_line
from pipeline.model.export import RunCard, model_card, restored
from pipeline.plots import accuracy_figure, elbo_figure, profile_figure
from pipeline.tracking import Tracker, read_records
from pipeline.training.accuracy import accuracy_profile
from pipeline.training.compute_cost import ComputeCost
from pipeline.training.elbo_history import ElboHistory
from pipeline.training.figures import Report
from pipeline.training.goodput import Goodput
from pipeline.training.pictures import draw_samples, draw_schedule
from pipeline.training.time_bins import ProfileWindow, training_profile
from vdm_core.records import SchedulePoint

log = logging.getLogger(__name__)


class Narrator:
    """Tells MLflow and the console; remembers, through the journal, what was before a restart."""

    def __init__(
        self,
        tracker: Tracker,
        config: TrainConfig,
        card: RunCard,
        cost: ComputeCost,
        terms: Sequence[str],
    ) -> None:
        """Read back the tracker's journal; `terms` are the names of the ELBO's."""
        self._tracker, self._config, self._card, self._cost = tracker, config, card, cost
        self._history = ElboHistory(terms, read_records(tracker.journal))
        self._goodput = Goodput(read_records(tracker.journal))
        self._window = ProfileWindow(0)

    def begin(self, submitted: float, started: float, step: int) -> None:
        """Training begins after `step`; times as `Goodput.begin`."""
        self._tracker.note("life", self._goodput.begin(submitted, started, step))
        self._window = ProfileWindow(step)

    def metrics(self, step: int, report: Report, data: dict[str, float]) -> None:
        """Tell an interval's figures, and those of the `data`, and log a line about them."""
        values = report.values
        if report.gammas is not None:
            self._window.add(report.bins, report.gammas)
        self._history.add(step, values)
        self._goodput.add(step, values)
        shown = {name: value for name, value in values.items() if name != "train/seconds_left"}
        cost = self._cost.figures(values["train/images_per_second"])
        self._tracker.metrics(step, shown | cost | data | self._goodput.figures())
        log.info(progress_line(step, self._config.steps, values))

    def pictures(
        self,
        step: int,
        live: SchedulePoint | None,
        weights: dict[str, Tensor],
        device: torch.device,
    ) -> None:
        """Draw the loss by its terms, and what there is of it over γ.

        Of a model that images can be drawn from also samples and, where it has one, the schedule
        (`live` as in `draw_schedule`); `weights` are the average's.
        """
        if isinstance(self._card.model, ScheduledClassifierConfig):
            found = accuracy_profile(self._window.take(step))
            self._tracker.figure(step, "accuracy", accuracy_figure(found))
            self._tracker.json(f"accuracy/{step:08d}.json", found.as_json())
            return
        card = model_card(self._card)
        model = restored(weights, card, self._config.name)
        self._tracker.figure(step, "elbo", elbo_figure(*self._history.curves()))
        if live is not None:
            self._draw_profile(step, card.dims)
            draw_schedule(self._tracker, step, live, model, card)
        draw_samples(self._tracker, step, model.to(device), self._config, card)

    def _draw_profile(self, step: int, dims: int) -> None:
        profile = training_profile(self._window.take(step), dims)
        self._tracker.figure(step, "profile", profile_figure(profile))
        self._tracker.json(f"profile/{step:08d}.json", profile.as_json())

    def saved(self, step: int, stall: float) -> None:
        """Tell for how many seconds the checkpoint after `step` held the training up."""
        self._tracker.metrics(step, {"time/checkpoint_stall_seconds": stall})
