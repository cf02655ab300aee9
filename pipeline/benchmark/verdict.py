"""What bounds a run, in words, from what a benchmark found."""

from pipeline.benchmark.records import BenchmarkReport, Trial

_BUSY = 0.3  # load a core before the benchmark's own workers
_NOISY = 0.2  # spread of the repetitions


def bound(report: BenchmarkReport) -> str:
    """What a step of the whole run spends most on: "data", "communication", ….

    "data": the stream alone takes longer than the arithmetic. Else the greatest of three shares
    of a step: "compute", what one worker alone needs for its images; "communication", what the
    step gains with the number of workers; "checkpoints", their stall spread over the steps.
    """
    last = report.trials[-1]
    if last.loader.median > last.compute.step.median:
        return "data"
    shares = {
        "compute": report.trials[0].compute.step.median,
        "communication": _growth(report),
        "checkpoints": _stall_per_step(report),
    }
    return max(shares, key=lambda name: shares[name])


def verdict(report: BenchmarkReport) -> list[str]:
    """Sentences with the figures behind them; the first says what bounds the run."""
    last = report.trials[-1]
    step, both = last.compute.step.median, last.both.median
    growth, stall = _growth(report), _stall_per_step(report)
    sentences = [
        f"{_BOUNDS[bound(report)]}",
        f"Loader: the stream alone takes {_share(last.loader.median, step)} of a step's "
        f"arithmetic; the whole loop {both / step:.3f} times it.",
        f"Checkpoints: each holds the training up for {1e3 * last.stall.median:.1f} ms, "
        f"{_share(last.stall.median, last.save.median)} of a whole save; one every "
        f"{report.checkpoint_every_steps} steps costs {_share(stall, both)} of the time.",
    ]
    first = report.trials[0]
    if first.workers < last.workers:
        efficiency = first.compute.step.median / step
        sentences.insert(
            2,
            f"Communication: a step takes {1e3 * growth:.1f} ms longer on {last.workers} workers "
            f"than on {first.workers} ({efficiency:.0%} efficiency), what they share of a machine "
            f"included; {_all_reduce(last)}.",
        )
    if report.other_precision is not None:
        other = report.other_precision
        sentences.append(
            f"Precision: {last.compute.precision} takes {step / other.step.median:.2f} times the "
            f"time of {other.precision}."
        )
    return sentences + _doubts(report)


_BOUNDS = {
    "data": "Bound by the data: raise data.loader_workers, or install the extra `fast`.",
    "compute": "Bound by arithmetic: more workers, a lower precision or faster devices help.",
    "communication": "Bound by communication: raise data.micro_batch or data.batch_size, or lower "
    "deepspeed.zero_stage.",
    "checkpoints": "Bound by checkpoints: raise checkpoint.every_steps, or use faster storage.",
}


def _doubts(report: BenchmarkReport) -> list[str]:
    doubts = []
    load = max(trial.load for trial in report.trials)
    if load > _BUSY:
        doubts.append(
            f"Beware: the machines were busy before a trial (load {load:.2f} per core); measure "
            "again on quiet ones."
        )
    spread = max(t.spread for trial in report.trials for t in (trial.compute.step, trial.both))
    if spread > _NOISY:
        doubts.append(f"Beware: the repetitions of a step differ by up to {spread:.0%}.")
    return doubts


def _growth(report: BenchmarkReport) -> float:
    first, last = (trial.compute.step.median for trial in (report.trials[0], report.trials[-1]))
    return max(0.0, last - first)


def _stall_per_step(report: BenchmarkReport) -> float:
    return report.trials[-1].stall.median / report.checkpoint_every_steps


def _share(part: float, whole: float) -> str:
    return f"{part / whole:.1%}"


def _all_reduce(trial: Trial) -> str:
    assert trial.all_reduce is not None
    return f"adding up a gradient alone takes {1e3 * trial.all_reduce.median:.1f} ms"
