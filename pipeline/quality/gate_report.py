"""The gate for people: one line a check, and the samples that look most like training images."""

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from pipeline.config.data import TransformConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.stream import iterate_once
from pipeline.data.transform import NO_TRANSFORM
from pipeline.plots import image_grid
from pipeline.quality.gate import GateReport, NeighbourEvidence
from pipeline.quality.gate_plan import Plan

_BLUE, _GREY = "#2a6fb0", "#8a8a8a"
_PAIRS = 10


def gate_text(report: GateReport) -> str:
    """The outcome, then each check: failed ones first."""
    checks = sorted(report.checks, key=lambda check: check.passed)
    outcome = "passed" if report.passed else "failed"
    lines = [
        f"  {'ok  ' if check.passed else 'FAIL'} {check.name:<16} {check.value:.4g} "
        f"(limit {check.limit:g}): {check.found}"
        for check in checks
    ]
    return "\n".join([f"gate {outcome}: {report.samples}", *lines])


def gate_figure(plan: Plan, evidence: NeighbourEvidence) -> Figure:
    """Distances of samples and of training images to the nearest training image; nearest pairs."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6))
    found, own = evidence.samples.distance, evidence.data.distance
    bins = np.linspace(0, max(found.max(), own.max()), 50).tolist()
    style = {"bins": bins, "density": True}
    left.hist(own, color=_GREY, alpha=0.6, label="training images, to another", **style)
    left.hist(found, color=_BLUE, alpha=0.6, label="samples, to a training image", **style)
    quantile = plan.config.gate.memorised_quantile
    left.axvline(evidence.near, color="black", linestyle="--", label=f"{quantile:.1%} of training")
    left.set(title="Nearest training image", xlabel="root mean square difference, levels")
    left.set(ylabel="density")
    left.margins(y=0.3)  # room for the legend
    left.legend(frameon=False, fontsize=9)
    left.spines[["top", "right"]].set_visible(False)
    right.imshow(nearest_pairs(plan, evidence))
    right.set_title("Nearest pairs: samples above, training images below", fontsize=10)
    right.axis("off")
    return figure


def nearest_pairs(plan: Plan, evidence: NeighbourEvidence) -> np.ndarray:
    """(H,W,3): the samples that are nearest to a training image, each above that image."""
    order = np.argsort(evidence.samples.distance, kind="stable")[:_PAIRS]
    transform = plan.config.gate.against.transform
    above = [_image(plan.samples, int(evidence.samples.places[i])) for i in order]
    below = [_image(plan.against, int(evidence.samples.nearest[i]), transform) for i in order]
    names = ["sample", "training"]
    return image_grid(torch.stack(above + below), columns=len(order), row_names=names)


def _image(
    dataset: ShardedDataset, place: int, transform: TransformConfig = NO_TRANSFORM
) -> Tensor:
    """The image (C,H,W) at this place of the set."""
    one = iterate_once(dataset, start=place, stop=place + 1, batch_size=1, transform=transform)
    return next(one).images[0]
