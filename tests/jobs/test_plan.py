"""`jobs.plan` as a person meets it, and what `jobs.train` refuses by the same figures."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from jobs import plan
from jobs.cli import run
from pipeline.config.plan import PlanConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import InputError
from pipeline.training.preflight import plan_training

CLUSTER = str(Path(__file__).parents[2] / "jobs/presets/h100_cluster.yaml")


@pytest.fixture
def planned(tiny: Any, tmp_path: Path) -> Any:
    """planned("key=value", …): exit code and JSON of jobs.plan for the tiny run, 2 to 4 GPUs."""
    tiny()

    def call(*overrides: str) -> tuple[int, dict[str, Any]]:
        output = tmp_path / "plan.json"
        argv = ["--config", str(tmp_path / "tiny.yaml"), "--config", CLUSTER, "cluster.workers=2"]
        argv += ["images={shape: [1, 8, 8], classes: 3, bytes: 100}", "gpus=[2, 3, 4]"]
        code = run(PlanConfig, plan.main, argv=[*argv, f"output={output}", *overrides])
        return code, json.loads(output.read_text()) if output.exists() else {}

    return call


def test_figures_by_hand(planned: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Six steps of 8 images: time, cost and checkpoint size follow from parameters and FLOPs."""
    code, figures = planned("hardware.failures_per_1000_node_days=0", "scaling=strong")
    assert code == 0
    two, four = figures["forecasts"]
    assert figures["images"] == 48
    assert set(figures["impossible"]) == {"3"}
    assert two["compute"] == pytest.approx(
        4 * figures["training_flops_per_image"] / (0.3 * 989.4e12)
    )
    assert four["compute"] == pytest.approx(two["compute"] / 2)
    assert two["checkpoint_bytes"] == 4 * figures["parameters"] * 5  # weights, moments, 2 averages
    assert two["step"] == pytest.approx(two["compute"] + two["communication"])
    assert two["mtbf"] is None
    assert two["cost"] == pytest.approx(6 * two["step"] / two["goodput"] / 3600 * 2 * 3.0)
    assert math.isclose(two["days"] * 24 * 2 * 3.0, two["cost"])
    said = capsys.readouterr().out
    assert "assumptions" in said
    assert "do not divide among 3 GPUs" in said


def test_slow_storage_is_the_bound(planned: Any) -> None:
    """A step then lasts as long as its images take to be read."""
    _, figures = planned("hardware.storage_gbytes_per_second=1e-6")
    assert figures["forecasts"][0]["bound"] == "data"
    assert figures["forecasts"][0]["step"] == pytest.approx(8 * 100 / 1e3)


def test_weak_scaling_sees_all_images_in_fewer_steps(planned: Any) -> None:
    """Twice the GPUs: twice the batch, half the steps, the same computing in a step."""
    _, figures = planned()
    two, _, four = figures["forecasts"]
    assert (two["batch"], two["steps"]) == (8, 6)
    assert (four["batch"], four["steps"]) == (16, 3)
    assert four["compute"] == two["compute"]


def test_what_does_not_fit_is_said(planned: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 1 and what takes how much."""
    assert planned("hardware.memory_gib=2.001")[0] == 1
    said = capsys.readouterr().err
    assert "does not fit into hardware.memory_gib=2.001" in said
    assert "These fit: data.micro_batch=4 at ZeRO stage 0" in said


def test_a_calibration_without_a_run_is_refused(
    planned: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2."""
    assert planned("calibration=absent")[0] == 2
    assert "is no training run" in capsys.readouterr().err


def test_training_that_cannot_fit_is_refused(tiny: Any, pack: Any, tmp_path: Path) -> None:
    """By `cluster.gpu_memory_gib`, before anything starts; with enough of it nothing is said."""
    pack(tmp_path / "set")
    config: TrainConfig = tiny("cluster.gpu_memory_gib=100")
    assert plan_training(config).done_steps == 0
    with pytest.raises(InputError, match=r"does not fit: a GPU would need .* GiB"):
        plan_training(tiny("cluster.gpu_memory_gib=0.001"))
