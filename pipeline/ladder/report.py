"""The ladder for people: one table, and one picture with each family's samples beside its bound."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.ladder.result import RungResult
from pipeline.plots import image_grid, stackable, term_colors
from pipeline.report_files import ReportFiles
from pipeline.sampling.sample_set import open_sample_set, rows_by_class

FILES = ReportFiles("ladder.md", "ladder.png", "ladder.json")
_LINES = 2  # of samples of each class that are shown
_SHORT = {"reconstruction": "rec", "diffusion": "diff", "auxiliary": "aux"}
_NAMES = {
    "reconstruction": "reconstruction",
    "prior": "prior (top latent)",
    "diffusion": "diffusion",
    "latents": "latents: encoder + latent + diffusion",
}
_NARROW = 0.08  # of the longest bar: what is narrower than that is not labelled


def markdown(rows: Sequence[RungResult]) -> str:
    """The table; terms from the image upwards."""
    first = rows[0]
    head = (
        "| family | bits/dim | terms, bits/dim | parameters | steps | TFLOP | worker-seconds "
        "| evaluations per sample | samples/s |"
    )
    rule = "|---|---:|---|---:|---:|---:|---:|---:|---:|"
    lines = [
        f"| {r.title} | {r.bits_per_dim:.3f} ± {r.standard_error:.3f} | {_terms(r.terms)} "
        f"| {r.parameters:,} | {r.steps:,} | {r.teraflops:.1f} | {r.worker_seconds:.0f} "
        f"| {r.evaluations} | {r.samples_per_second:.3g} |"
        for r in rows
    ]
    note = (
        f"{first.images:,} test images, data {first.data_digest[:12]}; ± is one standard error "
        "over images. TFLOP: of the networks in training, forward and backward. Samples/s: of one "
        "actor, encoding and writing included."
    )
    return "\n".join([head, rule, *lines, "", note, ""])


def _terms(terms: Mapping[str, float]) -> str:
    return ", ".join(f"{_SHORT.get(n, n.replace('_', ' '))} {v:.3f}" for n, v in terms.items())


def ladder_figure(rows: Sequence[RungResult]) -> Figure:
    """Left a strip of samples of each family, right its bound, stacked by its terms."""
    figure = Figure(figsize=(14, 1.75 * len(rows) + 1.0), layout="constrained")
    grid = figure.add_gridspec(len(rows), 2, width_ratios=[1.5, 1])
    for number, row in enumerate(rows):
        panel = figure.add_subplot(grid[number, 0])
        panel.imshow(_strip(row), interpolation="nearest")
        panel.set_title(
            f"{row.title}   {row.bits_per_dim:.3f} ± {row.standard_error:.3f} bits/dim",
            fontsize=11, loc="left",
        )  # fmt: skip
        panel.set_axis_off()
    _draw_bars(figure.add_subplot(grid[:, 1]), rows)
    return figure


def _strip(row: RungResult) -> NDArray[np.uint8]:
    """The first samples of each class, a column for each."""
    samples = open_sample_set(row.samples)
    classes = list(rows_by_class(samples, _LINES).values())
    if len(classes) == 1:
        wanted = list(range(min(len(samples), _LINES * 10)))
        return image_grid(samples.images(wanted), columns=10)
    wanted = [rows[line] for line in range(_LINES) for rows in classes if line < len(rows)]
    return image_grid(samples.images(wanted), columns=len(classes))


def _draw_bars(axes: Axes, rows: Sequence[RungResult]) -> None:
    """A bar for each family, from the top latent to the image, with the total ± 2 errors."""
    longest, seen = max(row.bits_per_dim for row in rows), set()
    for place, row in enumerate(rows):
        stack = {name: values[0] for name, values in _one(row.terms).items()}
        left = 0.0
        for (name, value), color in zip(stack.items(), term_colors([*stack]), strict=True):
            label = _NAMES.get(name, name)
            axes.barh(
                place, value, 0.55, left=left, color=color, edgecolor="white",
                label=None if label in seen else label,
            )  # fmt: skip
            seen.add(label)
            if value > _NARROW * longest:
                text = f"{value:.2f}"
                axes.text(left + value / 2, place, text, ha="center", va="center", color="white")
            left += value
        axes.errorbar(left, place, xerr=2 * row.standard_error, color="black", capsize=3)
        axes.text(
            left + 2 * row.standard_error + 0.01 * longest, place, f"{row.bits_per_dim:.3f}",
            va="center",
        )  # fmt: skip
    axes.set_yticks(range(len(rows)), [row.title for row in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.set_xlim(0, 1.15 * longest)
    axes.set_xlabel("bits/dim on the test split, ± 2 standard errors")
    axes.set_title(f"{rows[0].teraflops:.0f} TFLOP of training each", fontsize=11, loc="left")
    axes.grid(axis="x", color="#dddddd", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.09), ncols=2)


def _one(terms: Mapping[str, float]) -> dict[str, Sequence[float]]:
    """The terms in the order of the stack, all levels below the top one as one."""
    levels = [value for name, value in terms.items() if name.startswith("kl_")]
    rest = {name: [value] for name, value in terms.items() if not name.startswith("kl_")}
    return stackable(rest | ({"levels below the top": [sum(levels)]} if levels else {}))
