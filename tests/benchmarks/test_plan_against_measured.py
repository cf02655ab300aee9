"""Step times that `jobs.plan` predicts from another configuration's benchmark, beside measured.

    OMP_NUM_THREADS=1 python -m pytest -m benchmark -s tests/benchmarks/test_plan_against*.py

Calibrated is on one worker with 16 images. Predicted are other numbers of images, another width,
another depth and another ZeRO stage. All in CPU time, since other work disturbs the clock.
"""

import gzip
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pytest
import torch

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

pytestmark = [pytest.mark.benchmark, pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]
PRESETS = [str(ROOT / f"jobs/presets/{name}.yaml") for name in ("fashion_mnist_cpu",)]
NETWORK = "model.network={kind: downsampling_unet, width: %d, multipliers: [1, 2, 2], blocks: %d}"
OTHERS = {
    "8 images": ("data.batch_size=8", NETWORK % (32, 1)),
    "32 images": ("data.batch_size=32", NETWORK % (32, 1)),
    "64 wide": ("data.batch_size=16", NETWORK % (64, 1)),
    "3 blocks": ("data.batch_size=16", NETWORK % (32, 3)),
    "stage 2": ("data.batch_size=16", NETWORK % (32, 1), "deepspeed.zero_stage=2"),
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


def test_predicted_beside_measured(tmp_path: Path, launch: Any) -> None:
    """Prints the ratio for each configuration."""
    write_set(tmp_path)

    def config(workers: int, *more: str) -> BenchmarkConfig:
        given = overrides(tmp_path, workers, "measure={steps: 4, repeats: 3}", *more)
        return load_config(BenchmarkConfig, PRESETS, given)

    base = config(1, "data.batch_size=16", NETWORK % (32, 1))
    others = {name: config(1, *more) for name, more in OTHERS.items()}
    found = launch("plan_ranks", 1, tmp_path / "ranks", base=base, others=others)
    measured = {name: median(times) for name, times in found["times"].items()}

    trial = found["trial"]
    slower = sum(trial.compute.phases.values()) / measured["base"]  # the clock's share of others
    phases = {name: seconds / slower for name, seconds in trial.compute.phases.items()}
    compute = trial.compute.model_copy(update={"phases": phases})
    report = BenchmarkReport(
        name="toy", zero_stage=base.deepspeed.zero_stage,
        parameters=found["state_bytes"] // 16, training_flops=found["flops"], peak_flops=None,
        state_bytes=found["state_bytes"], checkpoint_every_steps=1000, steps=4, repeats=3,
        torch=torch.__version__, code="", trials=(trial.model_copy(update={"compute": compute}),),
        other_precision=None,
    )  # fmt: skip
    (tmp_path / REPORT).write_text(report.model_dump_json())

    print(f"\ncalibrated on one worker, 16 images: {measured['base']:.3f} CPU seconds a step")
    for name, more in OTHERS.items():
        given = [HARDWARE, f"calibration={tmp_path}", "gpus=[]", *more]
        plan = plan_cluster(load_config(PlanConfig, PRESETS, overrides(tmp_path, 1, *given)))
        answer, seconds = plan.forecasts[0].step, measured[name]
        figures = f"predicted {answer:.3f} s, measured {seconds:.3f} s"
        print(f"  {name:<10} {figures}: ratio {answer / seconds:.2f}")
