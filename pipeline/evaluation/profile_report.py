"""The diffusion term spread over γ, for people: a table and a picture."""

import pyarrow as pa
import torch
from matplotlib.figure import Figure

from vdm_core.likelihood import Profile

_BLUE = "#2a6fb0"


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
