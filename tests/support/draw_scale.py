"""What 1 to 4,096 simulated workers cost: docs/images/scale.png and the table of docs/scale.md.

    python tests/support/draw_scale.py    # measures and writes both anew, some minutes

Seconds are CPU seconds of this process. Memory is the peak of what Python and NumPy allocate.
"""

import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from counted_store import counted
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from simulated_cluster import (
    commit_all,
    draw_all,
    find_newest,
    ranges_of,
    read_share,
    sample_plan,
    save_for,
    stream,
    write_images,
    write_parts,
)

from pipeline.checkpoint.read import CheckpointReader
from pipeline.checkpoint.record import INDEX, FileLayout
from pipeline.data.dataset import open_dataset
from pipeline.sampling.finish import finish_set
from pipeline.sampling.output_folder import finished_shards
from pipeline.sampling.plan import SetPlan
from pipeline.storage import Location, open_storage

ROOT = Path(__file__).resolve().parents[2]
WORKERS = (1, 16, 256, 4096)
LANES = (8, 4096)
STAGES = (0, 2, 3)
PARAMETERS, ELEMENTS = 1000, 4096
SAMPLES, WINDOW, BATCH, WATCHED = 65_536, 16, 8192, 64
Row = dict[str, float]
_COLOURS = {0: "#0072b2", 1: "#d55e00", 2: "#009e73", 3: "#cc79a7"}  # Okabe and Ito


def cost(work: Callable[..., Any], *given: Any, **named: Any) -> tuple[float, float]:
    """CPU seconds, and MiB at the peak, measured in a second run: counting slows the work down."""
    began = time.process_time()
    work(*given, **named)
    seconds = time.process_time() - began
    tracemalloc.start()
    work(*given, **named)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return seconds, peak / 2**20


def streaming(folder: Location) -> list[Row]:
    """An epoch, seen by up to `WATCHED` of the workers."""
    write_images(folder, shards=512, samples=SAMPLES // 512, block_samples=8)
    opened = open_dataset(folder.url)
    place, requests = counted(folder)
    dataset = replace(opened, folder=place, shards_at=place)
    useful = sum(block.block.bytes for block in opened.blocks) / SAMPLES
    rows = []
    for workers in WORKERS:
        row: Row = {}
        only = range(0, workers, max(1, workers // WATCHED))
        for lanes in LANES:
            settings: dict[str, Any] = {"lanes": lanes, "window": WINDOW, "batch": BATCH}
            requests.take()
            began = time.process_time()
            seen = stream(dataset, workers, only, **settings)
            row[f"seconds {lanes}"] = (time.process_time() - began) / len(only)
            row[f"read {lanes}"] = requests.take().read_bytes / (seen * useful)
            row[f"mib {lanes}"] = cost(stream, dataset, workers, [0], **settings)[1]
        print(workers, row, flush=True)
        rows.append(row)
    return rows


def saving(folder: Location) -> list[Row]:
    """A commit on rank 0, and what the last rank does at a resume."""
    sizes = {f"block.{n:03d}.weight": ELEMENTS for n in range(PARAMETERS)}
    rows = []
    for workers in WORKERS:
        row: Row = {}
        for stage in STAGES:
            place, requests = counted(folder / f"{workers}-{stage}")
            save = save_for(place, workers)
            write_parts(save, stage, sizes)
            requests.take()
            commit_cost = cost(commit_all, save, stage, sizes)
            row[f"commit s {stage}"], row[f"commit mib {stage}"] = commit_cost
            row[f"commit requests {stage}"] = requests.take().total / 2
            row[f"index {stage}"] = float((save.folder / INDEX).size() or 0)
            found = find_newest(place)
            requests.take()
            resume_cost = cost(read_share, *found, stage, sizes, workers - 1, workers)
            row[f"resume s {stage}"], row[f"resume mib {stage}"] = resume_cost
            row[f"resume requests {stage}"] = requests.take().total / 2
            if stage == 3:
                began = time.process_time()
                CheckpointReader(*found).whole("weights")
                row["whole s"] = time.process_time() - began
            place.delete_folder()
        row["listed"] = float(sum(_listed(sizes, rank, workers) for rank in range(workers)))
        print(workers, row, flush=True)
        rows.append(row)
    return rows


def _listed(sizes: dict[str, int], rank: int, ranks: int) -> int:
    """Bytes of a rank's fragments at stage 3 in an index that would list them."""
    ranges = enumerate(ranges_of(3, sizes, rank, ranks))
    listed = tuple((n, offset, length) for n, (_, offset, length) in ranges)
    return len(FileLayout(start=0, fragments=listed).model_dump_json())


def sampling(folder: Location) -> list[Row]:
    """A shard of 64 samples for each actor: the plan, going on after a kill, the manifests."""
    rows = []
    for workers in WORKERS:
        place, requests = counted(folder / f"{workers}")
        plan = sample_plan(place, workers, each=64)
        row: Row = {}
        row["plan s"], row["plan mib"] = cost(_lay_out, plan)
        draw_all(plan, "digest")
        row["go on s"], row["go on mib"] = cost(finished_shards, plan.output, "digest")
        done = finished_shards(plan.output, "digest")
        requests.take()
        row["finish s"], row["finish mib"] = cost(finish_set, plan, done)
        row["finish requests"] = requests.take().total / 2
        print(workers, row, flush=True)
        rows.append(row)
    return rows


def _lay_out(plan: SetPlan) -> None:
    for task in plan.tasks():
        plan.rows.rows(task.start, task.stop)


def table(streams: list[Row], saves: list[Row], samples: list[Row]) -> str:
    """Markdown."""
    head = ["", *(f"{workers:,}" for workers in WORKERS)]
    lines = [head, ["---", *["---:"] * len(WORKERS)]]

    def add(name: str, values: list[float], form: str) -> None:
        lines.append([name, *(format(value, form) for value in values)])

    for lanes in LANES:
        add(f"streaming, {lanes:,} lanes: bytes read / bytes used",
            [row[f"read {lanes}"] for row in streams], ".2f")  # fmt: skip
        add(f"streaming, {lanes:,} lanes: MiB of a worker",
            [row[f"mib {lanes}"] for row in streams], ".2f")  # fmt: skip
    add("streaming, 4,096 lanes: CPU seconds of a worker",
        [row["seconds 4096"] for row in streams], ".3f")  # fmt: skip
    for stage in STAGES:
        name = {0: "0", 2: "1, 2", 3: "3"}[stage]
        add(f"commit, stage {name}: CPU seconds", [r[f"commit s {stage}"] for r in saves], ".3f")
        add(f"commit, stage {name}: MiB", [r[f"commit mib {stage}"] for r in saves], ".1f")
        add(
            f"commit, stage {name}: requests",
            [r[f"commit requests {stage}"] for r in saves],
            ",.0f",
        )
        add(f"index.json, stage {name}: kB", [r[f"index {stage}"] / 1e3 for r in saves], ".0f")
        add(f"resume, stage {name}: requests of a rank",
            [r[f"resume requests {stage}"] for r in saves], ".0f")  # fmt: skip
        add(f"resume, stage {name}: CPU seconds", [r[f"resume s {stage}"] for r in saves], ".3f")
        add(f"resume, stage {name}: MiB", [r[f"resume mib {stage}"] for r in saves], ".1f")
    add("all weights put together, stage 3: CPU seconds", [r["whole s"] for r in saves], ".2f")
    for name, what in (("plan", "plan of the shards"), ("go on", "what is done already"),
                       ("finish", "manifests")):  # fmt: skip
        add(f"sampling, {what}: CPU seconds", [row[f"{name} s"] for row in samples], ".3f")
        add(f"sampling, {what}: MiB", [row[f"{name} mib"] for row in samples], ".1f")
    add("sampling, manifests: requests", [row["finish requests"] for row in samples], ",.0f")
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def picture(streams: list[Row], saves: list[Row], samples: list[Row]) -> Figure:
    """Six panels over the number of workers."""
    figure = Figure(figsize=(13, 7.6), layout="constrained")
    panels = figure.subplots(2, 3).ravel()
    _lines(panels[0], "Streaming: bytes read / bytes used", {
        "8 lanes": [row["read 8"] for row in streams],
        "4,096 lanes": [row["read 4096"] for row in streams],
    })  # fmt: skip
    _lines(panels[1], "Index of a checkpoint, kB", {
        "stages 0 to 2": [row["index 2"] / 1e3 for row in saves],
        "stage 3": [row["index 3"] / 1e3 for row in saves],
        "stage 3, if it listed fragments": [row["listed"] / 1e3 for row in saves],
    })  # fmt: skip
    panels[1].lines[2].set(linestyle=":", marker="", color="#8a8a8a")
    panels[1].legend(frameon=False, fontsize=9, loc="upper left")
    _lines(panels[2], "Memory, MiB", {
        "streaming worker, 4,096 lanes": [row["mib 4096"] for row in streams],
        "commit on rank 0, stage 3": [row["commit mib 3"] for row in saves],
        "resume of a rank, stage 3": [row["resume mib 3"] for row in saves],
        "sampling, manifests": [row["finish mib"] for row in samples],
    })  # fmt: skip
    _lines(panels[3], "Checkpoints, CPU seconds", {
        "commit on rank 0, stage 2": [row["commit s 2"] for row in saves],
        "commit on rank 0, stage 3": [row["commit s 3"] for row in saves],
        "resume of a rank, stage 3": [row["resume s 3"] for row in saves],
        "all weights together, stage 3": [row["whole s"] for row in saves],
    })  # fmt: skip
    _lines(panels[4], "Sampling, the driver, CPU seconds", {
        "plan of the shards": [row["plan s"] for row in samples],
        "what is done already": [row["go on s"] for row in samples],
        "manifests": [row["finish s"] for row in samples],
    })  # fmt: skip
    _lines(panels[5], "Requests to the storage", {
        "commit on rank 0, stage 3": [row["commit requests 3"] for row in saves],
        "resume of a rank, stage 3": [row["resume requests 3"] for row in saves],
        "sampling, manifests": [row["finish requests"] for row in samples],
    })  # fmt: skip
    panels[5].lines[2].set(linestyle="--")  # it lies on the first
    panels[5].legend(frameon=False, fontsize=9, loc="upper left")
    for panel in panels[3:]:
        panel.set_xlabel("simulated workers")
    return figure


def _lines(panel: Axes, title: str, lines: dict[str, list[float]]) -> None:
    for number, (name, values) in enumerate(lines.items()):
        panel.plot(WORKERS, values, "o-", color=_COLOURS[number], label=name, markersize=4)
    panel.set_xscale("log", base=2)
    panel.set_yscale("log")
    panel.set_xticks(WORKERS, [f"{workers:,}" for workers in WORKERS])
    panel.yaxis.set_major_formatter(
        lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"
    )
    panel.minorticks_off()
    low, high = panel.get_ylim()
    panel.set_ylim(low, high**1.35 / low**0.35)  # room for the legend
    panel.set_title(title, fontsize=11, loc="left")
    panel.grid(color="#dddddd", linewidth=0.7)
    panel.spines[["top", "right"]].set_visible(False)
    panel.legend(frameon=False, fontsize=9, loc="upper left")


def main() -> None:
    """Measure, draw, and replace the table in the document."""
    with tempfile.TemporaryDirectory() as name:
        folder = open_storage(name)
        found = (
            streaming(folder / "images"),
            saving(folder / "run"),
            sampling(folder / "samples"),
        )
    picture(*found).savefig(ROOT / "docs/images/scale.png", dpi=110)
    document = ROOT / "docs/scale.md"
    text = document.read_text(encoding="utf-8")
    begin, end = text.index("<!-- table -->"), text.index("<!-- end -->")
    document.write_text(
        f"{text[:begin]}<!-- table -->\n{table(*found)}\n{text[end:]}", encoding="utf-8"
    )


if __name__ == "__main__":
    main()
