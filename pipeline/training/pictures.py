"""The pictures of a training run, and the numbers behind them as JSON."""

from typing import Any

import torch

from pipeline.config.train import TrainConfig
from pipeline.model.draw import Walk, draw_images
from pipeline.model.export import ModelCard
from pipeline.model.generative import Generative
from pipeline.model.schedule_record import CURVE_POINTS, schedule_record
from pipeline.plots import image_grid, schedule_figure
from pipeline.tracking import Tracker
from pipeline.training.figures import over_pixels, schedule_figures
from pipeline.training.time_bins import EDGES
from vdm_core.adaptive import at_prior_mean
from vdm_core.records import SchedulePoint

CURVE_TIMES = torch.linspace(0.0, 1.0, CURVE_POINTS)


def draw_schedule(
    tracker: Tracker, step: int, live: SchedulePoint, average: Generative, card: ModelCard
) -> None:
    """γ(t), SNR(t) and γ'(t), live and averaged, of a model that has them; `live` at `CURVE_TIMES`.

    As a figure, as `schedule/<step>.json` with the averaged schedule's digest, and the average's
    ends and quartiles as metrics.
    """
    schedule, config = average.schedule, card.model.schedule
    assert schedule is not None
    assert config is not None
    with torch.no_grad():
        curve = at_prior_mean(schedule, CURVE_TIMES)
        points = at_prior_mean(schedule, EDGES)
    note = "at latent 0" if config.kind == "adaptive" else None
    tracker.figure(step, "schedule", schedule_figure(CURVE_TIMES, live, curve, note=note))
    tracker.json(
        f"schedule/{step:08d}.json",
        {
            "step": step,
            "live": _curve(live),
            "average": schedule_record(config.kind, schedule).model_dump(mode="json"),
        },
    )
    tracker.metrics(step, schedule_figures(points, "schedule_average"))


def draw_samples(
    tracker: Tracker, step: int, average: Generative, config: TrainConfig, card: ModelCard
) -> None:
    """A grid of samples whose ids, and so whose noise, are the same at every step."""
    count, classes = config.tracking.picture_images, card.classes
    ids = torch.arange(count, device=next(average.parameters()).device)
    labels = ids % classes if classes and card.model.conditional else None
    walk = Walk(config.tracking.picture_steps)
    images = draw_images(average, ids, labels, shape=card.shape, seed=config.seed, walk=walk)
    tracker.image(step, "samples", image_grid(images.cpu(), columns=classes or 10))


def _curve(point: SchedulePoint) -> dict[str, Any]:
    return {
        "t": CURVE_TIMES.tolist(),
        "gamma": over_pixels(point.gamma).tolist(),
        "slope": over_pixels(point.slope).tolist(),
    }
