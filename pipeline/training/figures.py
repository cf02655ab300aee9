"""The numbers of a report by the names that MLflow shows; docs/metrics.md has them in a table."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.metrics import elbo_metrics
from pipeline.model.family import Model
from pipeline.training.accuracy import accuracy_figures
from pipeline.training.engine import Engine
from pipeline.training.interval import Interval
from pipeline.training.phase_timer import TRAINING
from pipeline.training.time_bins import BINS, EDGES, loss_variance
from vdm_core import VAE, VDM, HierarchicalVAE, LatentVDM
from vdm_core.classification import ScheduledClassifier
from vdm_core.records import SchedulePoint


class Report(NamedTuple):
    """`values`: every figure by its name. `bins`, `gammas`: what a `ProfileWindow` adds up.

    `gammas` is None for a model without a schedule.
    """

    values: dict[str, float]
    bins: Tensor
    gammas: Tensor | None


def report(engine: Engine, interval: Interval, steps: int, steps_left: int, dims: int) -> Report:
    """The figures of an interval of `steps` steps. Collective.

    γ and its slope are means over the pixels. `dims`: what bits/dim counts.
    """
    schedule = engine.schedule_at(EDGES)
    values = (
        elbo_metrics(interval.nats, dims)
        | {
            "train/grad_norm": engine.gradient_norm,
            "train/learning_rate": engine.learning_rates["kernels"],
        }
        | _timed_figures(engine.model, interval.bins, dims)
        | ({} if schedule is None else schedule_figures(schedule, "schedule"))
        | _time_figures(interval, steps, steps_left)
        | {"memory/host_peak_gib": interval.host_gib}
    )
    if engine.device.type == "cuda":
        values["memory/device_peak_gib"] = interval.device_gib
    gammas = None if schedule is None else over_pixels(schedule.gamma)
    return Report(values, interval.bins, gammas)


def _timed_figures(model: Model, bins: Tensor, dims: int) -> dict[str, float]:
    """What the bins of t hold, in a few numbers."""
    match model:
        case VDM() | LatentVDM():
            return {"train/loss_variance": loss_variance(bins, dims)}
        case ScheduledClassifier():
            return accuracy_figures(bins)
        case VAE() | HierarchicalVAE():
            return {}


def schedule_figures(at_edges: SchedulePoint, group: str) -> dict[str, float]:
    """What the noise schedule does, from its points at `EDGES`: (BINS+1,...)."""
    gamma, slope = (over_pixels(values) for values in at_edges)
    snr = torch.exp(-gamma)
    return {
        f"{group}/gamma_0": float(gamma[0]),
        f"{group}/gamma_025": float(gamma[BINS // 4]),
        f"{group}/gamma_050": float(gamma[BINS // 2]),
        f"{group}/gamma_075": float(gamma[3 * BINS // 4]),
        f"{group}/gamma_1": float(gamma[-1]),
        f"{group}/snr_0": float(snr[0]),
        f"{group}/snr_1": float(snr[-1]),
        f"{group}/slope_least": float(slope.min()),
        f"{group}/slope_greatest": float(slope.max()),
    }


def _time_figures(interval: Interval, steps: int, steps_left: int) -> dict[str, float]:
    """Seconds per step, and speed; pictures, saving and tracking are not training speed."""
    training = sum(interval.seconds[phase] for phase in TRAINING)
    values = {
        "train/images_per_second": interval.images / training,
        "train/step_seconds": training / steps,
        "train/seconds_left": training / steps * steps_left,
        "time/total_seconds": sum(interval.seconds.values()) / steps,
    }
    values |= {f"time/{p}_seconds": s / steps for p, s in interval.seconds.items()}
    if dist.get_world_size() > 1:
        slowest = interval.slowest.items()
        values |= {f"time_slowest_rank/{p}_seconds": s / steps for p, s in slowest}
    return values


def over_pixels(values: Tensor) -> Tensor:
    """(N,...) -> (N,) float64: the mean over the pixels where each has a value of its own."""
    return values.double().reshape(len(values), -1).mean(1)
