"""A node dies while jobs.sample draws on it; every sample is made once, with the same bytes."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from small_models import write_model

from fault_runs import ROOT
from pipeline.data.dataset import open_dataset
from pipeline.sampling.output_folder import ROWS
from pipeline.sampling.sample_set import open_sample_set
from ray_nodes import PATIENCE, wait_until
from sampling_jobs import draw_directly

SETTINGS = {"per_class": 200, "steps": 100, "samples_per_shard": 20}


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_node_is_lost_while_samples_are_drawn(cluster: Any, tmp_path: Path) -> None:
    """The raylet, its actor and what it held; the job goes on without being given again."""
    model, output = write_model(tmp_path / "model", "vdm"), tmp_path / "samples"
    request = [f"model={model}", f"output={output}", "pool.actors=2", "batch_size=20"]
    command = [sys.executable, "-m", "jobs.sample", *request]
    log = tmp_path / "log"
    with log.open("wb") as told:
        job = subprocess.Popen(
            [*command, *(f"{key}={value}" for key, value in SETTINGS.items())],
            cwd=ROOT, env=os.environ | cluster.environment, stdout=told, stderr=told,
        )  # fmt: skip
    try:
        wait_until(lambda: len(rows(output)) >= 4, log.read_text, job, every=0.02)
        cluster.lose_node()
        assert len(rows(output)) < 30, "the job was over before it could be disturbed"
        cluster.add_node()
        assert job.wait(timeout=PATIENCE) == 0, log.read_text()[-6000:]
    finally:
        job.kill()
        job.wait()
    assert open_sample_set(str(output)).manifest(["id"])["id"].to_pylist() == list(range(600))
    direct = draw_directly(Path(model), tmp_path / "direct", batch_size=20, **SETTINGS)
    assert [row.sha256 for row in open_dataset(str(output)).rows] == direct


def rows(output: Path) -> list[Path]:
    """What says that a shard is finished."""
    return list((output / ROWS).glob("*.parquet"))
