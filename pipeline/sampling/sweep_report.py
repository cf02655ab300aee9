"""The comparison of a sweep for people: sweep.csv, sweep.md, sweep.parquet and sweep.png."""

import io
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.csv as pa_csv
from matplotlib.figure import Figure

from pipeline.parquet_file import parquet_bytes
from pipeline.plots import image_grid
from pipeline.sampling.sample_set import open_sample_set
from pipeline.sampling.sweep import CellResult, table_columns
from pipeline.storage import Location

TABLE, PICTURE = "sweep", "sweep.png"
_IMAGES, _COLUMNS = 20, 5  # of each cell


def write_table(output: Location, results: list[CellResult]) -> str:
    """Write the table in three forms; return it as Markdown."""
    table = pa.table(table_columns(results))
    csv, text = io.BytesIO(), markdown(results)
    pa_csv.write_csv(table, csv)
    (output / f"{TABLE}.parquet").write_bytes(parquet_bytes(table))
    (output / f"{TABLE}.csv").write_bytes(csv.getvalue())
    (output / f"{TABLE}.md").write_bytes(text.encode())
    return text


def markdown(results: Sequence[CellResult]) -> str:
    """The table for people; speeds are of one actor."""
    head = "| sampler | steps | w | NFE | samples | samples/s | std within a class |"
    rule = "|---|---:|---:|---:|---:|---:|---:|"
    lines = [
        f"| {r.sampler} | {r.steps} | {r.guidance_scale:g} | {r.nfe} | {r.samples:,} | "
        f"{r.samples_per_second:.3g} | {r.class_std:.1f} |"
        for r in results
    ]
    return "\n".join([head, rule, *lines]) + "\n"


def sweep_figure(results: Sequence[CellResult]) -> Figure:
    """The same ids in every cell: a row for each sampler and its steps, a column for each w."""
    rows = list(dict.fromkeys((r.sampler, r.steps) for r in results))
    scales = list(dict.fromkeys(r.guidance_scale for r in results))
    lines = -(-min(_IMAGES, results[0].samples) // _COLUMNS)
    width = 2.6
    figure = Figure(
        figsize=(width * len(scales) + 0.4, (width * lines / _COLUMNS + 0.1) * len(rows) + 0.4),
        layout="constrained",
    )
    panels = figure.subplots(len(rows), len(scales), squeeze=False)
    for result in results:
        row = rows.index((result.sampler, result.steps))
        panel = panels[row, scales.index(result.guidance_scale)]
        samples = open_sample_set(result.output)
        shown = range(min(_IMAGES, len(samples)))
        panel.imshow(image_grid(samples.images(shown), _COLUMNS), interpolation="nearest")
        panel.set_xticks([])
        panel.set_yticks([])
        panel.spines[:].set_visible(False)
        if row == 0:
            panel.set_title(f"w = {result.guidance_scale:g}", fontsize=11)
        if result.guidance_scale == scales[0]:
            panel.set_ylabel(f"{result.sampler}, {result.steps} steps", fontsize=10)
    return figure
