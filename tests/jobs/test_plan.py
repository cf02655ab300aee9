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
from pipeline.planning.operations import passes_operations
from pipeline.training.preflight import plan_training
from pipeline.training.trained import Trained

SHAPE, CLASSES = (1, 8, 8), 3
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


def test_an_output_that_cannot_be_written_is_named(
    planned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The plan has been shown by then; a full disk ends in one message as well."""
    code, _ = planned(f"output={tmp_path}/tiny.yaml/plan.json")
    assert code == 2
    assert "cannot write" in capsys.readouterr().err


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
    elements = figures["parameters"] / 2  # at stage 1 each updates its half; two averages
    assert two["update"] == pytest.approx(elements * (28 + 2 * 12) / 3350e9)
    assert two["step"] == pytest.approx(two["compute"] + two["update"] + two["communication"])
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


def benchmark(folder: Path, **changes: Any) -> None:
    """A report of one and two workers with 4 images each: passes 0.4 s, update 0.1 s.

    In them each byte took 0.5 ns of the operations, which were 0.3 s, and the engine the rest.
    """
    sizes = [("mm float32", 10, 10**8), ("add float32", 0, 10**8)]
    rows = [(n, flops, k * size, 1, k * size * 0.5e-9) for n, flops, size in sizes for k in (1, 2)]
    passes = {"micro_batch": 4, "seconds": 0.3, "issue_seconds": None, "operations": rows}

    def trial(workers: int) -> dict[str, Any]:
        phases = {"forward": 0.1, "backward": 0.3, "optimizer": 0.08, "average": 0.02}
        step = {"seconds": [0.5]}
        return {
            "workers": workers, "global_batch": 4 * workers, "device": "CPU", "load": 0.0,
            "compute": {"precision": "float32", "step": step, "phases": phases},
            "loader": step, "both": step, "save": step, "stall": {"seconds": [0.25]},
            "all_reduce": None if workers == 1 else {"seconds": [0.01]},
        }  # fmt: skip

    report = {
        "name": "toy", "zero_stage": 1, "parameters": 1000, "training_flops": 3000,
        "peak_flops": None, "state_bytes": 20_000, "checkpoint_every_steps": 10, "steps": 1,
        "repeats": 2, "torch": "2", "code": "0", "trials": [trial(1), trial(2)], "passes": [passes],
        "other_precision": None,
    }  # fmt: skip
    folder.mkdir()
    (folder / "benchmark.json").write_text(json.dumps(report | changes))


def test_what_was_measured_takes_the_place_of_the_description(
    planned: Any, tiny: Any, tmp_path: Path
) -> None:
    """Passes, update, host copy and link by hand, from the reports of benchmarks."""
    benchmark(tmp_path / "speed")
    benchmark(tmp_path / "same")
    code, figures = planned(f"calibration=[{tmp_path}/speed, {tmp_path}/same]")
    assert code == 0
    two = figures["forecasts"][0]
    trained = Trained(tiny().model, SHAPE, CLASSES, 256)
    moved = sum(n * o.bytes for o, n in passes_operations(trained, 4, bfloat16=False).items())
    assert two["compute"] == pytest.approx(moved * 0.5e-9 * 0.4 / 0.3)
    flops = 4 * figures["training_flops_per_image"] / two["compute"]
    assert figures["flops_per_second_of_a_gpu"] == pytest.approx(flops)
    assert 0.1 < figures["unseen_share_of_passes"] < 1  # all but sums and matrix products
    assert two["update"] == pytest.approx(figures["parameters"] / 2 * 0.1 / 1000)
    assert figures["hardware"]["node_gbytes_per_second"] == pytest.approx(4000 / 0.01 / 1e9)
    assert figures["hardware"]["network_gbytes_per_second"] == 400
    assert two["stall"] == pytest.approx(4 * figures["parameters"] * 5 / 2 / (10_000 / 0.25))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (None, "has no benchmark.json; make it by jobs.benchmark"),
        ({"trials": "none"}, "is no report of jobs.benchmark"),
        ({"trials": []}, "is no report of jobs.benchmark"),
        ({}, "was measured in float32 and the run is in bfloat16"),
        ({"passes": []}, "has no times of operations"),
    ],
)
def test_a_calibration_that_is_none_is_refused(
    planned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: Any, words: str
) -> None:
    """Exit code 2, and what to do."""
    if changes is not None:
        benchmark(tmp_path / "speed", **changes)
    given = f"calibration={tmp_path}/speed"
    assert planned(given, "deepspeed.precision=bfloat16")[0] == 2
    assert words in capsys.readouterr().err


def test_data_that_is_not_there_can_be_described_instead(
    planned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert planned("images=null")[0] == 2
    said = capsys.readouterr().err
    assert f"{tmp_path}/set does not exist; check the path" in said
    assert "A plan needs no data: describe the images, such as images={shape:" in said


def test_benchmarks_of_several_devices_are_refused(
    planned: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A plan of half of each would be of neither."""
    benchmark(tmp_path / "one")
    benchmark(tmp_path / "two")
    file = tmp_path / "two/benchmark.json"
    file.write_text(file.read_text().replace('"CPU"', '"NVIDIA H100 80GB HBM3"'))
    assert planned(f"calibration=[{tmp_path}/one, {tmp_path}/two]")[0] == 2
    assert "benchmarks of CPU and of NVIDIA H100 80GB HBM3" in capsys.readouterr().err


def test_training_that_cannot_fit_is_refused(tiny: Any, pack: Any, tmp_path: Path) -> None:
    """By `cluster.gpu_memory_gib`, before anything starts; with enough of it nothing is said."""
    pack(tmp_path / "set")
    config: TrainConfig = tiny("cluster.gpu_memory_gib=100")
    assert plan_training(config).done_steps == 0
    with pytest.raises(InputError, match=r"does not fit: a GPU would need .* GiB"):
        plan_training(tiny("cluster.gpu_memory_gib=0.001"))
