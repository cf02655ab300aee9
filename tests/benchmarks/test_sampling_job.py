"""The whole sampling job over its network calls: two actors that draw, encode and write shards."""

import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from pipeline.config.model import ModelConfig
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, export_bytes
from pipeline.sampling.output_folder import ROWS
from pipeline.sampling.shard_rows import read_finished
from pipeline.storage import open_storage

ROOT = Path(__file__).resolve().parents[2]
SHAPE, BATCH, STEPS, SHARD, SHARDS = (1, 28, 28), 32, 8, 128, 8
NETWORK = {"kind": "downsampling_unet", "width": 40, "multipliers": (1, 2), "blocks": 2}


@pytest.fixture
def model(tmp_path):
    config = ModelConfig.model_validate({"network": NETWORK})
    vdm = build_vdm(config, SHAPE, 10, seed=0, levels=256)
    card = ModelCard(
        model=config, shape=SHAPE, levels=256, classes=10,
        class_names=tuple("abcdefghij"), step=0, run="benchmark", mlflow_run_id=None,
        dataset_digest="",
    )  # fmt: skip
    for name, data in export_bytes(vdm.state_dict(), card).items():
        (open_storage(str(tmp_path / "model")) / name).write_bytes(data)
    return tmp_path / "model"


BARE = f"""
import json, sys, time, torch
from pipeline.model.export import load_model
from pipeline.storage import open_storage

torch.set_num_threads(1)
vdm, _ = load_model(open_storage(sys.argv[1]))
rows = 2 * {BATCH}
z, gamma, labels = torch.randn(rows, *{SHAPE}), torch.zeros(rows), torch.arange(rows) % 10
times = []
with torch.no_grad():
    for _ in range(3 * {STEPS}):
        start = time.perf_counter()
        vdm.network(z, gamma, labels)
        times.append(time.perf_counter() - start)
print(json.dumps(times))
"""


def bare_call_seconds(model):
    """Seconds of one guided network call, two processes calling at once as two actors do."""
    command = [sys.executable, "-c", BARE, str(model)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    both = [
        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    return median(t for process in both for t in json.loads(process.communicate()[0])[STEPS:])


@pytest.mark.benchmark
@pytest.mark.timeout(900)
def test_whole_job_over_its_network_calls(model, tmp_path):
    """Time from the first shard's start to the finished set, against two actors' calls alone."""
    output = tmp_path / "samples"
    per_class = SHARD * SHARDS // 10
    before = bare_call_seconds(model)
    subprocess.run(
        [sys.executable, "-m", "jobs.sample", f"model={model}", f"output={output}",
         f"per_class={per_class}", f"steps={STEPS}", "guidance_scale=2", f"batch_size={BATCH}",
         f"samples_per_shard={SHARD}", "pool.actors=2", "class_grid_images=0"],
        cwd=ROOT, check=True, env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    call = median([before, bare_call_seconds(model)])
    rows = open_storage(str(output)) / ROWS
    done = {name: read_finished(rows / name) for name in rows.files()}
    ends = {name: (output / ROWS / name).stat().st_mtime for name in done}
    begins = min(ends[name] - shard.seconds for name, shard in done.items())
    wall = (output / "dataset.json").stat().st_mtime - begins
    calls = sum(-(-shard.row.samples // BATCH) for shard in done.values()) * STEPS
    print(
        f"\n{per_class * 10:,} samples of {SHAPE}, {STEPS} steps, guided: {calls} calls of batch "
        f"{2 * BATCH} at {1e3 * call:.0f} ms on two actors take {calls * call / 2:.1f} s; the job, "
        f"from the first call to the finished set, {wall:.1f} s: {calls * call / 2 / wall:.3f}"
    )
