"""What a benchmark says in words follows from its figures."""

from typing import Any

import pytest

from pipeline.benchmark.records import BenchmarkReport, StepTiming, Timing, Trial
from pipeline.benchmark.report import benchmark_figure, benchmark_table
from pipeline.benchmark.verdict import bound, verdict


def timing(seconds: float) -> Timing:
    return Timing(seconds=(seconds, 1.02 * seconds, 0.98 * seconds))


def trial(workers: int, step: float, **changes: Any) -> Trial:
    """32 images a worker; a loader and checkpoints that cost little."""
    given = {
        "workers": workers,
        "global_batch": 32 * workers,
        "device": "CPU",
        "load": 0.0,
        "compute": StepTiming(
            precision="bfloat16", step=timing(step), phases={"forward": 0.3 * step}
        ),
        "loader": timing(0.001),
        "both": timing(1.01 * step),
        "all_reduce": timing(0.002) if workers > 1 else None,
        "stall": timing(0.001),
        "save": timing(0.1),
    }
    return Trial.model_validate(given | changes)


def report(*trials: Trial, every: int = 100) -> BenchmarkReport:
    return BenchmarkReport(
        name="toy", zero_stage=1, parameters=10, training_flops=3_000_000, peak_flops=1e9,
        state_bytes=1_000_000, checkpoint_every_steps=every, steps=2, repeats=3, torch="2",
        code="0", trials=trials,
        other_precision=StepTiming(precision="float32", step=timing(0.4), phases={}),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (report(trial(1, 0.1), trial(2, 0.11)), "compute"),
        (report(trial(1, 0.1), trial(2, 0.11, loader=timing(0.2))), "data"),
        (report(trial(1, 0.1), trial(4, 0.25)), "communication"),
        (report(trial(1, 0.1), trial(2, 0.11, stall=timing(0.5)), every=2), "checkpoints"),
        (report(trial(2, 0.1)), "compute"),
    ],
)
def test_what_bounds_a_run(found: BenchmarkReport, expected: str) -> None:
    """The greatest share of a step; data where the stream is slower than the arithmetic."""
    assert bound(found) == expected


def test_the_figures_in_words() -> None:
    """Efficiency, stall and precision, computed by hand."""
    text = "\n".join(verdict(report(trial(1, 0.1), trial(2, 0.125))))
    assert "takes 25.0 ms longer on 2 workers than on 1 (80% efficiency)" in text
    assert "holds the training up for 1.0 ms, 1.0% of a whole save" in text
    assert "bfloat16 takes 0.31 times the time of float32" in text
    assert "Beware" not in text


def test_doubtful_figures_are_said_to_be() -> None:
    """A busy machine, and repetitions that differ."""
    wild = StepTiming(
        precision="float32", step=Timing(seconds=(0.1, 0.2, 0.1)), phases={"forward": 0.1}
    )
    text = "\n".join(verdict(report(trial(1, 0.1, load=0.8, compute=wild))))
    assert "load 0.80 per core" in text
    assert "differ by up to 100%" in text


def test_rates() -> None:
    """Model FLOP/s of one worker in the loop, and bytes of a checkpoint a second, by hand."""
    found = report(trial(1, 0.1), trial(2, 0.2, both=timing(0.25)))
    assert found.model_flops_per_second == pytest.approx(3_000_000 * 32 / 0.25)
    assert found.storage_bytes_per_second == pytest.approx(1_000_000 / 0.1)


def test_the_table_and_the_json_hold_what_was_found() -> None:
    """A row for each part and worker count; the JSON reads back as the same report."""
    found = report(trial(1, 0.1), trial(2, 0.125))
    table = benchmark_table(found)
    assert table.count("| 1 |") == 5
    assert table.count("| 2 |") == 7
    assert "| 2 | step alone, resident batch | 125.00 (122.50 - 127.50) | 512.0 |" in table
    assert "76.0% of the device's peak" in table
    assert BenchmarkReport.model_validate_json(found.model_dump_json()) == found
    assert len(benchmark_figure(found).axes) == 3
