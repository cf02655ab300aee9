"""Step times that `jobs.plan` predicts from benchmarks of other configurations, beside measured.

    OMP_NUM_THREADS=1 python -m pytest -m benchmark -s tests/benchmarks/test_plan_against*.py

Calibrated is on one worker, by the preset's network with 16 images, or by a wider one too; a DiT
by a DiT. Predicted are steps of other micro-batches, widths, depths, ZeRO stages, of two workers,
and of a DiT by the others, whose layers are of other kinds. All are measured in turns, by the
clock: on a machine that does nothing else.
"""

import gzip
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest

from pipeline.benchmark.plan import REPORT
from pipeline.benchmark.records import BenchmarkReport
from pipeline.config.benchmark import BenchmarkConfig
from pipeline.config.load import load_config
from pipeline.config.plan import PlanConfig
from pipeline.data.decode import encode_png
from pipeline.data.manifest import DatasetInfo
from pipeline.data.writer import ShardSample, finish_dataset, write_shard
from pipeline.planning.plan import plan_cluster
from pipeline.storage import open_storage

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]
PRESETS = [str(ROOT / f"jobs/presets/{name}.yaml") for name in ("fashion_mnist_cpu",)]
UNET = "model.network={kind: downsampling_unet, width: %d, multipliers: [1, 2, 2], blocks: %d}"
DIT = "model.network={kind: dit, width: %d, depth: %d, heads: 4, patch: 2}"
CALIBRATED = {
    "base": ("data.batch_size=16", UNET % (32, 1)),
    "wider": ("data.batch_size=16", UNET % (96, 1)),
    "DiT": ("data.batch_size=16", DIT % (128, 4)),
}
BY = [("base",), ("base", "wider"), ("DiT",)]
OTHERS = {
    "8 images": ("data.batch_size=8", UNET % (32, 1)),
    "32 images": ("data.batch_size=32", UNET % (32, 1)),
    "2 x 16 images": ("data.batch_size=32", "data.micro_batch=16", UNET % (32, 1)),
    "stage 0": ("data.batch_size=16", UNET % (32, 1), "deepspeed.zero_stage=0"),
    "stage 2": ("data.batch_size=16", UNET % (32, 1), "deepspeed.zero_stage=2"),
    "3 blocks": ("data.batch_size=16", UNET % (32, 3)),
    "48 wide": ("data.batch_size=16", UNET % (48, 1)),
    "64 wide": ("data.batch_size=16", UNET % (64, 1)),
    "64 wide, 2 blocks": ("data.batch_size=16", UNET % (64, 2)),
    "DiT, 32 images": ("data.batch_size=32", DIT % (128, 4)),
    "DiT, 8 blocks": ("data.batch_size=16", DIT % (128, 8)),
    "DiT, 192 wide": ("data.batch_size=16", DIT % (192, 4)),
    "DiT, 256 wide": ("data.batch_size=16", DIT % (256, 4)),
}
HARDWARE = (
    "hardware={memory_gib: 1000, peak_tflops: 1, achieved: 1, memory_gbytes_per_second: 1, "
    "node_gbytes_per_second: 1, network_gbytes_per_second: 1, storage_gbytes_per_second: 1000, "
    "latency_microseconds: 0, failures_per_1000_node_days: 0, price_per_gpu_hour: 0}"
)


def write_set(folder: Path) -> None:
    """512 images of Fashion-MNIST."""
    with gzip.open(ROOT / "data/fashion_mnist/t10k-images-idx3-ubyte.gz") as file:
        pixels = np.frombuffer(file.read(), np.uint8, offset=16).reshape(-1, 1, 28, 28)[:512]
    samples = [
        ShardSample(f"{n:06d}", encode_png(image), "png", n % 10) for n, image in enumerate(pixels)
    ]
    at = open_storage(str(folder / "set"))
    rows = [write_shard(at, f"s{k}.tar", samples[k::4]) for k in range(4)]
    finish_dataset(at, rows, DatasetInfo("train", (1, 28, 28), 10))


def overrides(folder: Path, workers: int, *more: str) -> list[str]:
    common = [f"root={folder}", "data.train=set", f"cluster.workers={workers}", "steps=100"]
    return [*common, "checkpoint.every_steps=1000", *more]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_predicted_beside_measured(precision: str, tmp_path: Path, launch: Any) -> None:
    """Prints the ratio for each configuration."""
    write_set(tmp_path)
    cast = f"deepspeed.precision={precision}"

    def config(workers: int, *more: str) -> BenchmarkConfig:
        given = overrides(tmp_path, workers, "measure={steps: 3, repeats: 5}", cast, *more)
        return load_config(BenchmarkConfig, PRESETS, given)

    def predicted(calibration: list[Path], workers: int, *more: str) -> float:
        folders = ", ".join(map(str, calibration))
        given = [HARDWARE, f"calibration=[{folders}]", "gpus=[]", "scaling=strong", cast, *more]
        plan = plan_cluster(load_config(PlanConfig, PRESETS, overrides(tmp_path, workers, *given)))
        return plan.forecasts[0].step

    others = {name: config(1, *more) for name, more in OTHERS.items()}
    benchmarked = {name: config(1, *more) for name, more in CALIBRATED.items()}
    found = launch("plan_ranks", 1, tmp_path / "one", benchmarked=benchmarked, others=others)
    two = "data.batch_size=32", UNET % (32, 1)
    both = launch(
        "plan_ranks", 2, tmp_path / "two", benchmarked={"base": config(2, *two)}, others={}
    )
    measured = {name: median(times) for name, times in found["times"].items()}
    measured["2 workers"] = median(both["times"]["base"])

    for name, report in found["reports"].items():
        trials = report.trials + (both["reports"]["base"].trials if name == "base" else ())
        whole: BenchmarkReport = report.model_copy(update={"trials": trials})
        (tmp_path / name).mkdir()
        (tmp_path / name / REPORT).write_text(whole.model_dump_json())

    print(f"\n{precision}: a step of the network calibrated by, {measured['base']:.3f} s")
    print("| predicted for | measured s | " + " | ".join(map(" + ".join, BY)) + " |")
    print("|---|---:|---:|---:|---:|")
    for name, more in (CALIBRATED | OTHERS | {"2 workers": two}).items():
        workers = 2 if name == "2 workers" else 1
        ratios = [
            predicted([tmp_path / one for one in by], workers, *more) / measured[name] for by in BY
        ]
        print(f"| {name} | {measured[name]:.3f} | " + " | ".join(f"{r:.2f}" for r in ratios) + " |")
