"""`jobs.benchmark` as a person meets it."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from jobs.benchmark import main
from jobs.cli import run
from pipeline.benchmark.plan import make_plan
from pipeline.benchmark.records import BenchmarkReport
from pipeline.config.benchmark import BenchmarkConfig

ROOT = Path(__file__).parents[2]


@pytest.fixture
def arguments(tiny: Any, pack: Any, tmp_path: Path) -> list[str]:
    """A training preset of two workers and its data."""
    tiny()
    pack(tmp_path / "set")
    return ["--config", str(tmp_path / "tiny.yaml"), "cluster.workers=2"]


def test_the_dry_run_says_what_would_be_measured(
    arguments: list[str], tmp_path: Path, capsys: Any
) -> None:
    """And writes nothing."""
    argv = [*arguments, "--dry-run"]
    assert run(BenchmarkConfig, main, plan=lambda c: make_plan(c).text(), argv=argv) == 0
    assert "measure tiny on 1, 2 workers of 4 images each" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_folder_with_other_things_is_refused(
    arguments: list[str], tmp_path: Path, capsys: Any
) -> None:
    """A run's own folder, say; nothing there is touched."""
    (tmp_path / "runs/tiny").mkdir(parents=True)
    (tmp_path / "runs/tiny/run.json").write_text("{}")
    assert run(BenchmarkConfig, main, argv=[*arguments, "output=runs/tiny"]) == 2
    assert "holds other things, such as run.json" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "runs/tiny").iterdir()] == ["run.json"]


@pytest.mark.slow
def test_a_benchmark_on_a_cluster(arguments: list[str], tmp_path: Path, submit_job: Any) -> None:
    """Trials of one and of two workers, both precisions; nothing but the result stays.

    Paths are relative to where the job is called, as on the command line; workers are elsewhere.
    """
    root = os.path.relpath(tmp_path, ROOT)
    job = submit_job("benchmark", *arguments, f"root={root}", "measure={steps: 2, repeats: 2}")
    output, _ = job.communicate(timeout=280)
    assert job.returncode == 0, output
    folder = tmp_path / "runs/tiny.speed"
    assert sorted(path.name for path in folder.iterdir()) == [
        "benchmark.json", "benchmark.md", "benchmark.png",
    ]  # fmt: skip
    report = BenchmarkReport.model_validate(json.loads((folder / "benchmark.json").read_text()))
    assert [trial.workers for trial in report.trials] == [1, 2]
    assert [trial.global_batch for trial in report.trials] == [4, 8]
    assert report.other_precision is not None
    assert report.other_precision.precision == "bfloat16"
    assert "Bound by" in output
    assert [timing.micro_batch for timing in report.passes] == [1, 4]
    assert "4 images without the engine take" in (folder / "benchmark.md").read_text()
