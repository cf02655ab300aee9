"""The pictures of a run: noise schedule, ELBO terms, profile, grids of samples.

Figures are made without pyplot, so nothing global is touched and any thread may draw.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, to_hex
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from pipeline.training.accuracy import AccuracyProfile
from pipeline.training.time_bins import TrainingProfile
from vdm_core.records import SchedulePoint

_BLUE, _ORANGE, _GREEN, _GREY = "#0072b2", "#d55e00", "#009e73", "#8a8a8a"  # Okabe and Ito
_TERM_COLORS = {  # in the order of the stack
    "prior": _GREEN, "reconstruction": _ORANGE, "auxiliary": "#cc79a7", "diffusion": _BLUE,
    "latents": "#56b4e9", "levels below the top": "#555555",
}  # fmt: skip
_OF_LATENTS = ("encoder", "latent", "diffusion")  # densities: only their sum has a meaning
_LEVELS = LinearSegmentedColormap.from_list("levels", [_GREEN, _BLUE])
_PADDING = 2  # pixels between the images of a grid, before scaling
_SMALLEST_SIDE = 64  # a grid's images are enlarged until their shorter side has this many pixels


def schedule_figure(
    t: Tensor,
    live: SchedulePoint,
    ema: SchedulePoint | None = None,
    reference: tuple[float, float] | None = None,
    note: str | None = None,
) -> Figure:
    """γ(t), SNR(t) = exp(-γ(t)) and γ'(t) in three panels, for `t` (N,) in [0, 1].

    `live` and `ema` hold (N,) tensors, or (N,C,H,W) where each pixel has a γ of its own: then a
    line is drawn at the mean over the pixels (of log SNR, for the SNR), in a band from the least to
    the greatest. `reference` = (γ(0), γ(1)) adds the straight line between those ends, for example
    the schedule the run began with; `note` is added to the title. Raises ValueError if a schedule
    has not one row for each of `t`.
    """
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    panels = figure.subplots(1, 3)
    times = _array(t)
    curves = [("learned", live, _BLUE, "-")]
    if ema is not None:
        curves.append(("EMA", ema, _ORANGE, "--"))
    if reference is not None:
        first, last = reference
        line = SchedulePoint(first + (last - first) * t, (last - first) + 0 * t)
        curves.insert(0, ("straight line", line, _GREY, ":"))
    for name, point, color, style in curves:
        if len(point.gamma) != len(t) or point.slope.shape != point.gamma.shape:
            raise ValueError(f"schedule {name!r} has shape {tuple(point.gamma.shape)}, t {t.shape}")
        gamma, slope = _mean_and_band(point.gamma), _mean_and_band(point.slope)
        for panel, (mean, *band) in zip(panels, (gamma, np.exp(-gamma), slope), strict=True):
            panel.plot(times, mean, style, color=color, label=name, linewidth=1.8)
            if point.gamma.ndim > 1:
                panel.fill_between(times, *band, color=color, alpha=0.2, linewidth=0)
    title = "Negative log-SNR" if live.gamma.ndim == 1 else "Negative log-SNR (mean, range)"
    _dress(panels[0], title if note is None else f"{title}, {note}", "time t", "γ(t)")
    _dress(panels[1], "Signal-to-noise ratio", "time t", "SNR(t) = exp(−γ(t))")
    _dress(panels[2], "Slope", "time t", "γ′(t)")
    panels[1].set_yscale("log")
    panels[2].set_ylim(bottom=0)
    if len(curves) > 1:
        panels[0].legend(frameon=False)
    for panel in panels:
        panel.set_xlim(0, 1)
    return figure


def elbo_figure(steps: Sequence[int], terms: Mapping[str, Sequence[float]]) -> Figure:
    """The negative ELBO over `steps`: its `terms` stacked on the left, each on a log scale right.

    Values in bits/dim, one for each step. The left axis leaves out the highest twentieth of the
    values, so that the first steps do not flatten the rest. Raises ValueError for no steps.
    """
    if len(steps) == 0:
        raise ValueError("the ELBO history is empty: draw it after the first logged step")
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    stack, each = figure.subplots(1, 2)
    shown = stackable(terms)
    names, colors, values = list(shown), term_colors(list(shown)), np.array([*shown.values()])
    total = values.sum(axis=0)
    stack.stackplot(steps, values, labels=names, colors=colors, alpha=0.75, linewidth=0)
    stack.plot(steps, total, color="black", linewidth=1.2, label="total")
    stack.set_ylim(0, 1.15 * float(np.quantile(total, 0.95)))
    for name, color, line in zip(names, colors, values, strict=True):
        each.plot(steps, line, color=color, label=name, linewidth=1.5)
    each.set_yscale("log", nonpositive="mask")
    _dress(stack, f"Negative ELBO, last {total[-1]:.3f} bits/dim", "step", "bits/dim")
    _dress(each, "Each term", "step", "bits/dim (log scale)")
    stack.legend(frameon=False, reverse=True)
    for panel in (stack, each):
        panel.margins(x=0)
    return figure


def stackable(terms: Mapping[str, Sequence[float]]) -> dict[str, Sequence[float]]:
    """The terms of a bound, from the bottom of a stack up; each is positive, or will be.

    Of a VDM of latents, what only has a meaning as a sum becomes one, "latents".
    """
    if all(name in terms for name in _OF_LATENTS):
        together = np.sum([terms[name] for name in _OF_LATENTS], axis=0).tolist()
        terms = {n: v for n, v in terms.items() if n not in _OF_LATENTS} | {"latents": together}
    levels = sorted((n for n in terms if n not in _TERM_COLORS), reverse=True)
    order = ["prior", *levels, *(name for name in _TERM_COLORS if name != "prior")]
    return {name: terms[name] for name in order if name in terms}


def term_colors(names: Sequence[str]) -> list[str]:
    """A colour for each of the terms; the levels of a hierarchy go from green to blue."""
    levels = [name for name in names if name not in _TERM_COLORS]
    shades = {n: to_hex(_LEVELS((k + 1) / (len(levels) + 1))) for k, n in enumerate(levels)}
    return [_TERM_COLORS.get(name) or shades[name] for name in names]


def profile_figure(profile: TrainingProfile) -> Figure:
    """The diffusion term over γ, ± 2 standard errors, on the left; the loss over t on the right.

    Left: bits/dim per unit of γ; the area is the diffusion term, and does not depend on how the
    schedule runs between its ends. Right: the mean loss at a time t, which does: the flatter it
    is, the less noisy is the loss at a random t.
    """
    figure = Figure(figsize=(12, 4.2), layout="constrained")
    over_gamma, over_time = figure.subplots(1, 2)
    gammas = np.array(profile.gammas)
    mean, error = np.array(profile.bits_per_gamma), np.array(profile.standard_error)
    widths, times = np.diff(gammas), np.linspace(0, 1, len(gammas))
    area = float(np.nansum(mean * widths))
    for panel, edges, scale in ((over_gamma, gammas, 1.0), (over_time, times, widths * len(mean))):
        low, high = (mean - 2 * error) * scale, (mean + 2 * error) * scale
        panel.stairs(high, edges, baseline=low, fill=True, color=_BLUE, alpha=0.25, linewidth=0)
        panel.stairs(mean * scale, edges, baseline=None, color=_BLUE, linewidth=1.8)
        panel.margins(x=0)
        panel.set_ylim(bottom=0)
    over_time.axhline(area, color=_GREY, linestyle=":", linewidth=1.5, label="its mean")
    over_time.legend(frameon=False)
    steps = f"steps {profile.first_step:,}–{profile.last_step:,}, {sum(profile.images):,} images"
    title = f"Diffusion term, area {area:.3f} bits/dim ({steps})"
    _dress(over_gamma, title, "γ, negative log-SNR", "bits/dim per unit of γ")
    _dress(over_time, "Its loss at a random time", "time t", "bits/dim")
    return figure


def accuracy_figure(profile: AccuracyProfile) -> Figure:
    """The share of examples classified rightly over γ, ± 2 standard errors."""
    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.subplots()
    gammas, share = np.array(profile.gammas), np.array(profile.accuracy)
    error, middles = 2 * np.array(profile.standard_error), (gammas[1:] + gammas[:-1]) / 2
    axes.plot(middles, share, color=_BLUE, linewidth=1.5)
    axes.fill_between(middles, share - error, share + error, color=_BLUE, alpha=0.2, linewidth=0)
    _dress(axes, f"Steps {profile.first_step} to {profile.last_step}", "γ", "accuracy")
    axes.set_ylim(0, 1.02)
    axes.margins(x=0)
    return figure


def image_grid(
    images: Tensor | NDArray[np.uint8],
    columns: int,
    row_names: Sequence[str] | None = None,
    scale: int | None = None,
) -> NDArray[np.uint8]:
    """uint8 images (N,C,H,W), C 1 or 3, row by row on white: one uint8 image (H',W',3).

    Images are enlarged by a whole factor (`scale`; by default until the shorter side has 64
    pixels), so pixels stay squares. With R rows, K columns, scale s and 2 s pixels of white
    around every image the size is R (H + 2) s + 2 s by K (W + 2) s + 2 s, plus on the left the
    room for `row_names`. Raises ValueError for other types, shapes or counts.
    """
    pixels = np.asarray(images.cpu() if isinstance(images, Tensor) else images)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] not in (1, 3):
        raise ValueError(
            f"images are {pixels.dtype} {pixels.shape}: pass uint8 (N,C,H,W) with C = 1 or 3"
        )
    count, _, height, width = pixels.shape
    rows = math.ceil(count / columns)
    if row_names is not None and len(row_names) != rows:
        raise ValueError(f"{len(row_names)} row names for {rows} rows: pass one per row")
    factor = scale or max(1, math.ceil(_SMALLEST_SIDE / min(height, width)))
    cell_height, cell_width = height + _PADDING, width + _PADDING
    canvas = np.full(
        (rows * cell_height + _PADDING, columns * cell_width + _PADDING, 3), 255, np.uint8
    )
    for i, image in enumerate(pixels):
        top = _PADDING + i // columns * cell_height
        left = _PADDING + i % columns * cell_width
        canvas[top : top + height, left : left + width] = image.transpose(1, 2, 0)
    grid = canvas.repeat(factor, axis=0).repeat(factor, axis=1)
    return grid if row_names is None else _with_row_names(grid, row_names, cell_height * factor)


def _with_row_names(
    grid: NDArray[np.uint8], names: Sequence[str], row_height: int
) -> NDArray[np.uint8]:
    font = ImageFont.load_default(size=max(11, min(18, row_height // 3)))
    room = math.ceil(max(font.getlength(name) for name in names)) + 16
    margin = Image.new("RGB", (room, grid.shape[0]), "white")
    draw = ImageDraw.Draw(margin)
    for row, name in enumerate(names):
        middle = (row + 0.5) * row_height + (grid.shape[0] - len(names) * row_height) / 2
        draw.text((room - 8, middle), name, fill="#202020", font=font, anchor="rm")
    return np.concatenate([np.asarray(margin), grid], axis=1)


def _dress(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.grid(color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _mean_and_band(values: Tensor) -> NDArray[Any]:
    """The mean, the least and the greatest over the pixels of `values` (N,...): (3,N)."""
    flat = _array(values).reshape(len(values), -1)
    return np.stack([flat.mean(1), flat.min(1), flat.max(1)])


def _array(values: Tensor) -> NDArray[Any]:
    return values.detach().double().cpu().numpy()
