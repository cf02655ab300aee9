"""The diffusion term spread over γ, for people: a table, a picture, and what the schedule gains."""

import math

import pyarrow as pa
import torch
from matplotlib.figure import Figure

from pipeline.config.base import ConfigModel
from vdm_core.likelihood import Profile
from vdm_core.likelihood.time_variance import TimeVariance

_BLUE = "#2a6fb0"


class VarianceOverTimes(ConfigModel):
    """Variance of an image's diffusion term at one uniform time, (bits/dim)^2.

    For the model's schedule, the straight line and the best schedule between the same ends; the
    ratios linear / learned and linear / best with standard errors over images.
    """

    linear: float
    learned: float
    best: float
    gain: float
    gain_error: float
    possible: float
    possible_error: float

    @staticmethod
    def of(variance: TimeVariance, dims: int) -> "VarianceOverTimes":
        """From nats^2; `dims` is C*H*W."""
        unit = (dims * math.log(2)) ** 2
        return VarianceOverTimes(
            linear=variance.linear.item() / unit,
            learned=variance.learned.item() / unit,
            best=variance.best.item() / unit,
            gain=variance.gain.mean.item(),
            gain_error=variance.gain.standard_error.item(),
            possible=variance.possible.mean.item(),
            possible_error=variance.possible.standard_error.item(),
        )


def variance_lines(variance: VarianceOverTimes) -> list[str]:
    """The variances and their ratio, for the report."""
    return [
        f"  variance        {variance.learned:8.4f} of the diffusion term at one uniform time, "
        f"(bits/dim)²; {variance.linear:.4f} with a linear schedule of the same ends",
        f"  linear/learned  {variance.gain:8.2f} ± {variance.gain_error:.2f} times the variance; "
        f"the best schedule gives {variance.possible:.2f} ± {variance.possible_error:.2f}",
    ]


def profile_table(profile: Profile) -> pa.Table:
    """One row per γ: |ε - ε̂|² and its half in bits/dim per unit of γ, with standard errors."""
    columns = {
        "gamma": profile.gammas,
        "squared_error": profile.error.mean,
        "squared_error_standard_error": profile.error.standard_error,
        "bits_per_dim_per_gamma": profile.integrand.mean,
        "bits_per_dim_per_gamma_standard_error": profile.integrand.standard_error,
    }
    return pa.table({name: values.tolist() for name, values in columns.items()})


def profile_figure(profile: Profile) -> Figure:
    """The integrand of the diffusion term over γ, ± 2 standard errors; its area is the term."""
    gammas, (mean, error) = profile.gammas, profile.integrand
    area = torch.trapezoid(mean, gammas).item()
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    panel = figure.subplots()
    panel.plot(gammas.numpy(), mean.numpy(), color=_BLUE, linewidth=1.8)
    low, high = (mean - 2 * error).numpy(), (mean + 2 * error).numpy()
    panel.fill_between(gammas.numpy(), low, high, color=_BLUE, alpha=0.25, linewidth=0)
    panel.set_title(f"Diffusion term over γ ± 2 standard errors, area {area:.3f} bits/dim")
    panel.set(xlabel="γ, negative log-SNR", ylabel="bits/dim per unit of γ")
    panel.set_ylim(bottom=0)
    panel.margins(x=0)
    panel.grid(color="#dddddd", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
    return figure
