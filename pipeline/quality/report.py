"""Distances for people: a table that says what was measured with what, and a picture."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.quality.measure import QualityReport

_BLUE = "#2a6fb0"


def quality_table(report: QualityReport) -> str:
    """A Markdown table, one row a set; counts stand beside, because a Fréchet distance has them."""
    names = report.names
    lines = [
        f"| set | images | {names.frechet} | {names.kernel} × 1000 | {names.precision} "
        f"| {names.recall} |",
        "|---|---|---|---|---|---|",
        *(
            f"| {label} | {row.images:,} | {row.frechet:.3f} | {1000 * row.kernel:.3f} ± "
            f"{1000 * row.kernel_deviation:.3f} | {row.precision:.3f} | {row.recall:.3f} |"
            for label, row in zip(set_labels(report), report.sets, strict=True)
        ),
        "",
        f"Features: {names.network}, {report.dims} of them. Against {report.against_images:,} "
        f"images of {report.against}, data {report.against_manifest_sha256[:12]}. ± is the "
        f"standard deviation of one of {report.subsets} subsets (of "
        f"{', '.join(f'{row.kernel_subset:,}' for row in report.sets)} images each). "
        f"Precision and recall: k = {report.neighbour}, at most {report.neighbour_images:,} images "
        "of each set. A Fréchet distance falls with the number of images: compare equal numbers.",
    ]
    small = [
        label
        for label, row in zip(set_labels(report), report.sets, strict=True)
        if row.images <= report.dims
    ]
    if small:
        lines.append(
            f"{', '.join(small)}: no more images than features, so the covariance is not known."
        )
    return "\n".join([*lines, ""])


def quality_figure(report: QualityReport) -> Figure:
    """Bars of each set's distances; ± the deviation of a subset for the kernel distance."""
    labels, names = set_labels(report), report.names
    figure = Figure(figsize=(12, 1.6 + 0.45 * len(labels)), layout="constrained")
    panels = figure.subplots(1, 3, sharey=True)
    _bars(panels[0], names.frechet, labels, [row.frechet for row in report.sets])
    _bars(
        panels[1],
        f"{names.kernel} × 1000",
        labels,
        [1000 * row.kernel for row in report.sets],
        [1000 * row.kernel_deviation for row in report.sets],
    )
    panels[2].plot([row.precision for row in report.sets], labels, "o", color=_BLUE)
    panels[2].plot([row.recall for row in report.sets], labels, "o", color=_BLUE, fillstyle="none")
    panels[2].set_title(f"{names.precision} (full) and recall (open)", fontsize=10)
    panels[2].set_xlim(0, 1)
    panels[0].invert_yaxis()
    for panel in panels:
        panel.grid(color="#dddddd", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def set_labels(report: QualityReport) -> list[str]:
    """As much of the end of each path as tells the sets apart."""
    parts = [row.path.rstrip("/").split("/") for row in report.sets]
    for depth in range(1, max(map(len, parts)) + 1):
        labels = ["/".join(part[-depth:]) for part in parts]
        if len(set(labels)) == len(labels):
            return labels
    return [row.path for row in report.sets]


def _bars(
    panel: Axes,
    title: str,
    labels: list[str],
    values: list[float],
    errors: list[float] | None = None,
) -> None:
    panel.barh(labels, values, xerr=errors, color=_BLUE, height=0.6, capsize=3)
    panel.set_title(title, fontsize=10)
