"""The result of an evaluation for people: a table, and a picture."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from pydantic import Field

from pipeline.config.base import ConfigModel
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.family import GenerativeConfig
from pipeline.config.ladder import HierarchicalVAEConfig, LatentVDMConfig, VAEConfig
from pipeline.config.model import ModelConfig
from pipeline.evaluation.bounds import bound_steps, meaning
from pipeline.evaluation.evaluate import ImageTerms
from pipeline.evaluation.profile_report import VarianceOverTimes, variance_lines
from pipeline.evaluation.summary import BoundSummary, bits_per_dim, summarise_figure, term_names
from pipeline.metrics import Scalar
from pipeline.model.export import ModelCard

_BLUE, _GREY = "#2a6fb0", "#8a8a8a"


class FurtherFigure(ConfigModel):
    """Another figure of the same images, and what it is."""

    bits_per_dim: float
    standard_error: float
    meaning: str


class LikelihoodReport(ConfigModel):
    """A split's bound with all that a bits/dim must be read with: `likelihood.json`."""

    bound: BoundSummary  # bits/dim
    further: dict[str, FurtherFigure] = Field(default_factory=dict)
    variance: VarianceOverTimes | None = None  # of the loss at one time, from the profile
    iid_pixel_bits_per_dim: float | None  # cross-entropy of the split under a pixel histogram
    time: str  # in which time the bound holds, or over how many latents
    conditional: bool  # on the image's label
    draws: int  # times and noises per image
    split: str
    model: str
    data: str
    data_digest: str  # SHA-256 of the split's manifest
    request: dict[str, Scalar]  # what the figures depend on: equal requests, equal figures


def further_figures(
    results: Sequence[ImageTerms], config: EvaluateConfig, card: ModelCard
) -> dict[str, FurtherFigure]:
    """The figures that were asked for beside the bound, but for the profile, which is a curve.

    Raises:
        FloatingPointError: an image has a figure that is not finite.
    """
    figures: dict[str, FurtherFigure] = {}
    for name in config.bounds.compute:
        if name != "profile":
            mean, error = summarise_figure(results, card.dims, name)
            figures[name] = FurtherFigure(
                bits_per_dim=mean.item(),
                standard_error=error.item(),
                meaning=meaning(name, config, bound_steps(config, card)),
            )
    return figures


def tracked_figures(report: LikelihoodReport) -> dict[str, float]:
    """The report's figures in bits/dim (gains are ratios), under the names that a tracker shows."""
    bound = report.bound
    figures = {"bits_per_dim": bound.bits_per_dim, "standard_error": bound.standard_error}
    figures |= bound.terms
    for name, figure in report.further.items():
        figures[f"{name}_bits_per_dim"] = figure.bits_per_dim
        figures[f"{name}_standard_error"] = figure.standard_error
    if report.variance is not None:
        figures["schedule_variance_gain"] = report.variance.gain
    return {f"{report.split}/{name}": value for name, value in figures.items()}


def time_text(model: GenerativeConfig, steps: int | None) -> str:
    """In which time a model's bound holds, or over how many latents."""
    match model:
        case ModelConfig():
            return "continuous time" if steps is None else f"T = {steps}"
        case LatentVDMConfig():
            return ("continuous time" if steps is None else f"T = {steps}") + ", of latents"
        case VAEConfig():
            return "one latent"
        case HierarchicalVAEConfig():
            return f"{model.depth} latents"


def report_text(report: LikelihoodReport) -> str:
    """A small table; each figure with its standard error, the T it holds for and the data."""
    bound, time = report.bound, report.time
    condition = "conditional on the label" if report.conditional else "unconditional"
    data = f"data {report.data_digest[:12]}"
    terms = [
        _line(term, value, bound.term_errors[term], f"{time}, {data}")
        for term, value in bound.terms.items()
    ]
    further = [
        _line(name, figure.bits_per_dim, figure.standard_error, f"{figure.meaning}, {data}")
        for name, figure in report.further.items()
    ]
    lines = [
        f"{report.split}: {bound.images:,} images, each once, draws per image: {report.draws}",
        _line("bound", bound.bits_per_dim, bound.standard_error, f"{time}, {condition}, {data}"),
        *terms,
        *further,
    ]
    if report.iid_pixel_bits_per_dim is not None:
        lines.append(
            f"  {'compare':<15} {report.iid_pixel_bits_per_dim:8.4f}            bits/dim"
            "   the best i.i.d.-pixel model"
        )
    if report.variance is not None:
        lines += variance_lines(report.variance)
    return "\n".join([*lines, f"  model           {report.model}"])


def _line(name: str, value: float, error: float, note: str) -> str:
    return f"  {name:<15} {value:8.4f} ± {error:.4f} bits/dim   {note}"


def likelihood_figure(
    results: Sequence[ImageTerms], dims: int, class_names: Sequence[str], iid_bits: float | None
) -> Figure:
    """Histogram of the images' bounds in bits/dim and, with labels, each class's mean ± 2 s.e."""
    totals = bits_per_dim(results, dims, term_names(results)).sum(1).numpy()
    labels = np.array([-1 if result.label is None else result.label for result in results])
    shown = sorted(set(labels.tolist()) - {-1})
    figure = Figure(figsize=(12 if shown else 6.5, 4.2), layout="constrained")
    panels = figure.subplots(1, 2 if shown else 1, squeeze=False)[0]
    panels[0].hist(totals, bins=40, color=_BLUE, alpha=0.8)
    panels[0].axvline(totals.mean(), color="black", linestyle="--", linewidth=1, label="mean")
    if iid_bits is not None:
        panels[0].axvline(iid_bits, color=_GREY, linewidth=1.5, label="i.i.d. pixels, mean")
    panels[0].set(title=f"Bound of {len(totals):,} images", xlabel="bits/dim", ylabel="images")
    panels[0].legend(frameon=False)
    if shown:
        groups = [totals[labels == label] for label in shown]
        errors = [2 * _standard_error(group) for group in groups]
        names = [class_names[label] if class_names else str(label) for label in shown]
        means = [group.mean() for group in groups]
        panels[1].errorbar(means, names, xerr=errors, fmt="o", color=_BLUE, capsize=3)
        panels[1].invert_yaxis()
        panels[1].set(title="Mean of each class ± 2 standard errors", xlabel="bits/dim")
    for panel in panels:
        panel.grid(color="#dddddd", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _standard_error(values: NDArray[np.float64]) -> float:
    """Of the mean; 0 for a single value, whose spread nobody knows."""
    return float(values.std(ddof=1) / len(values) ** 0.5) if len(values) > 1 else 0.0
