"""A benchmark for people: a table, and a picture of it."""

from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.benchmark.records import BenchmarkReport, PassTiming, Timing, Trial
from pipeline.benchmark.verdict import verdict

_BLUE, _ORANGE, _GREY = "#0072b2", "#d55e00", "#8a8a8a"  # Okabe and Ito
_ROWS: dict[str, Callable[[Trial], Timing | None]] = {
    "loader alone": lambda trial: trial.loader,
    "step alone, resident batch": lambda trial: trial.compute.step,
    "training loop": lambda trial: trial.both,
    "all-reduce of a gradient": lambda trial: trial.all_reduce,
    "checkpoint, stall": lambda trial: trial.stall,
    "checkpoint, whole save": lambda trial: trial.save,
}
_WITH_IMAGES = ("loader alone", "step alone, resident batch", "training loop")


def benchmark_table(report: BenchmarkReport) -> str:
    """Markdown: each part for each number of workers, and the verdict below."""
    last = report.trials[-1]
    lines = [
        f"# Speed of {report.name}",
        "",
        f"{report.parameters:,} parameters, ZeRO stage {report.zero_stage}, "
        f"{last.compute.precision}, {last.global_batch // last.workers} images a worker and step; "
        f"{last.device}, torch {report.torch}. Medians of {report.repeats} repetitions of "
        f"{report.steps} steps, the slowest rank's time (least - greatest).",
        "",
        "| workers | what | ms | images/s |",
        "|---|---|---|---|",
    ]
    for trial in report.trials:
        for name, timing in ((name, find(trial)) for name, find in _ROWS.items()):
            if timing is not None:
                speed = f"{trial.images_per_second(timing):,.1f}" if name in _WITH_IMAGES else ""
                lines.append(f"| {trial.workers} | {name} | {_milliseconds(timing)} | {speed} |")
    if report.other_precision is not None:
        other = report.other_precision
        lines.append(
            f"| {last.workers} | step alone in {other.precision} | {_milliseconds(other.step)} "
            f"| {last.images_per_second(other.step):,.1f} |"
        )
    phases = ", ".join(f"{n} {1e3 * s:.1f}" for n, s in last.compute.phases.items())
    flops = f"{report.model_flops_per_second / 1e9:,.1f} GFLOP/s a worker"
    if report.peak_flops is not None:
        flops += f", {report.model_flops_per_second / report.peak_flops:.1%} of the device's peak"
    lines += [
        "",
        *(_passes(timing) for timing in report.passes),
        f"The step alone in ms: {phases}. The loop computes {flops} (the model's arithmetic).",
        f"A checkpoint of {report.state_bytes / 1e6:,.1f} MB is written at "
        f"{report.storage_bytes_per_second / 1e6:,.1f} MB/s.",
        "",
        *(f"- {sentence}" for sentence in verdict(report)),
    ]
    return "\n".join([*lines, ""])


def benchmark_figure(report: BenchmarkReport) -> Figure:
    """Images per second of the parts; scaling over workers; where the time of a step goes."""
    figure = Figure(figsize=(12, 3.8), layout="constrained")
    parts, scaling, phases = figure.subplots(1, 3)
    _parts(parts, report.trials[-1])
    _scaling(scaling, report)
    seconds = report.trials[-1].compute.phases
    phases.barh([*seconds], [1e3 * value for value in seconds.values()], color=_BLUE)
    phases.invert_yaxis()
    phases.set_title("A step on a resident batch", fontsize=10)
    phases.set_xlabel("ms")
    for panel in (parts, scaling, phases):
        panel.grid(color="#dddddd", linewidth=0.7)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
    return figure


def _parts(panel: Axes, trial: Trial) -> None:
    for row, name in enumerate(_WITH_IMAGES):
        timing = _ROWS[name](trial)
        assert timing is not None
        speeds = [trial.global_batch / seconds for seconds in timing.seconds]
        panel.barh(row, trial.images_per_second(timing), color=_BLUE, height=0.6)
        panel.plot(speeds, [row] * len(speeds), "|", color="black")
    panel.set_yticks(range(len(_WITH_IMAGES)), ["loader", "step", "loop"])
    panel.set_xscale("log")
    panel.invert_yaxis()
    panel.set_title(f"On {trial.workers} workers (marks: repetitions)", fontsize=10)
    panel.set_xlabel("images per second")


def _scaling(panel: Axes, report: BenchmarkReport) -> None:
    counts = [trial.workers for trial in report.trials]
    first = report.trials[0]
    one = first.images_per_second(first.compute.step) / first.workers
    panel.plot(counts, [one * n for n in counts], ":", color=_GREY, label="proportional")
    for name, color, find in (
        ("step", _BLUE, _ROWS["step alone, resident batch"]),
        ("loop", _ORANGE, _ROWS["training loop"]),
    ):
        timings = [find(trial) for trial in report.trials]
        speeds = [
            trial.images_per_second(timing)
            for trial, timing in zip(report.trials, timings, strict=True)
            if timing is not None
        ]
        panel.plot(counts, speeds, "o-", color=color, label=name)
    panel.set_xticks(counts, [str(n) for n in counts])
    panel.set_ylim(bottom=0)
    panel.set_title("The same images for each worker", fontsize=10)
    panel.set_xlabel("workers")
    panel.set_ylabel("images per second")
    panel.legend(frameon=False)


def _passes(timing: PassTiming) -> str:
    calls = sum(row.calls for row in timing.operations)
    return (
        f"Forward and backward over {timing.micro_batch} images without the engine take "
        f"{1e3 * timing.seconds:.1f} ms, {calls:,} operations."
    )


def _milliseconds(timing: Timing) -> str:
    least, greatest = min(timing.seconds), max(timing.seconds)
    return f"{1e3 * timing.median:,.2f} ({1e3 * least:,.2f} - {1e3 * greatest:,.2f})"
