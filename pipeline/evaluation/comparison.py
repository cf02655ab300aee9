"""Several models on the same images: a table and a picture, each model against the first.

An image has the same times and noises under every model (they belong to its place in the split), so
what two models differ by is known far better than either figure: the standard error of a difference
is that of the images' differences, not of the two means.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from pipeline.evaluation.likelihood_report import LikelihoodReport
from pipeline.storage import Location

_BLUE = "#2a6fb0"
_UNIT = "_bits_per_dim"
HEADER = (
    "model", "figure", "bits_per_dim", "standard_error", "difference", "difference_error", "T",
    "images", "data_sha256", "weights_sha256",
)  # fmt: skip


@dataclass(frozen=True)
class Evaluated:
    """A finished evaluation: its name in the comparison, its report and its table of images."""

    name: str
    report: LikelihoodReport
    images: pa.Table

    @property
    def figures(self) -> list[str]:
        """The figures that can be compared: the total of the bound, and further ones."""
        return ["total", *self.report.further]

    def values(self, figure: str) -> NDArray[np.float64]:
        """(N,) bits/dim of each image, in the order of the split."""
        column: NDArray[np.float64] = self.images[figure + _UNIT].to_numpy()
        return column


@dataclass(frozen=True)
class Compared:
    """One figure of one model in bits/dim, and what it differs by from the first model."""

    name: str
    figure: str
    mean: float
    error: float
    difference: float | None  # None for the first model
    difference_error: float | None
    time: str
    images: int
    data_sha256: str
    weights_sha256: str


def read_evaluated(name: str, report: LikelihoodReport, images: Location) -> Evaluated:
    """Take up the table of images that the evaluation left."""
    return Evaluated(name, report, pq.read_table(pa.BufferReader(images.read_bytes())))


def compare(evaluated: Sequence[Evaluated]) -> list[Compared]:
    """Each figure of each model; differences are paired by image.

    Raises:
        ValueError: the tables are not of the same images.
    """
    first = evaluated[0]
    for other in evaluated[1:]:
        if other.images["key"] != first.images["key"]:
            raise ValueError(f"{other.name} and {first.name} were evaluated on other images")
    return [_compared(one, first, figure) for figure in first.figures for one in evaluated]


def _compared(one: Evaluated, first: Evaluated, figure: str) -> Compared:
    values, report = one.values(figure), one.report
    differences = None if one is first else values - first.values(figure)
    further = report.further.get(figure)
    return Compared(
        name=one.name,
        figure="bound" if figure == "total" else figure,
        mean=float(values.mean()),
        error=_standard_error(values),
        difference=None if differences is None else float(differences.mean()),
        difference_error=None if differences is None else _standard_error(differences),
        time=report.time if further is None else further.meaning,
        images=len(values),
        data_sha256=report.data_digest,
        weights_sha256=str(report.request["weights_sha256"]),
    )


def _standard_error(values: NDArray[np.float64]) -> float:
    return float(values.std(ddof=1) / len(values) ** 0.5)


def table_csv(rows: Sequence[Compared]) -> bytes:
    """All that is known, with all digits."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(HEADER)
    writer.writerows(astuple(row) for row in rows)
    return text.getvalue().encode()


def table_markdown(rows: Sequence[Compared]) -> str:
    """The same for people, four digits, digests cut short."""
    first = rows[0]
    lines = [
        "| model | figure | bits/dim | minus the first, paired | what | weights |",
        "|---|---|---|---|---|---|",
    ]
    for row in rows:
        difference = (
            "" if row.difference is None else f"{row.difference:+.4f} ± {row.difference_error:.4f}"
        )
        lines.append(
            f"| {row.name} | {row.figure} | {row.mean:.4f} ± {row.error:.4f} | {difference} "
            f"| {row.time} | {row.weights_sha256[:12]} |"
        )
    note = (
        f"{first.images:,} images, data {first.data_sha256[:12]}. ± is one standard error over "
        "images. Every model sees the same images, times and noises, so the error of a difference "
        "is that of the images' differences."
    )
    return "\n".join([*lines, "", note, ""])


def comparison_figure(rows: Sequence[Compared]) -> Figure:
    """Each model's figures ± 2 standard errors, and beside them the paired differences."""
    figures = list(dict.fromkeys(row.figure for row in rows))
    models = list(dict.fromkeys(row.name for row in rows))
    height = 1.4 + 0.35 * len(models)
    figure = Figure(figsize=(12, height * len(figures)), layout="constrained")
    panels = figure.subplots(len(figures), 2, squeeze=False, sharey=True)
    for (left, right), name in zip(panels, figures, strict=True):
        some = [row for row in rows if row.figure == name]
        _points(left, [(row.mean, row.error) for row in some])
        _points(right, [(row.difference or 0.0, row.difference_error or 0.0) for row in some])
        right.axvline(0, color="black", linestyle="--", linewidth=1)
        left.set_title(f"{name} ± 2 standard errors", fontsize=11)
        right.set_title("minus the first model's, paired by image", fontsize=11)
        left.set_yticks(range(len(models)), models)
        left.set_ylim(len(models) - 0.5, -0.5)
    return figure


def _points(panel: Axes, values: Sequence[tuple[float, float]]) -> None:
    """A point with twice its error for each model, from the top down."""
    means, errors = [mean for mean, _ in values], [2 * error for _, error in values]
    panel.errorbar(means, range(len(values)), xerr=errors, fmt="o", color=_BLUE, capsize=3)
    panel.set_xlabel("bits/dim")
    panel.grid(color="#dddddd", linewidth=0.7)
    panel.set_axisbelow(True)
    panel.spines[["top", "right"]].set_visible(False)
