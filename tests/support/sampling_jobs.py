"""What tests of sampling jobs share: a set made without a cluster, and a job to be disturbed."""

import re
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import psutil

from jobs.sample import make_plan
from pipeline.config.sample import SampleConfig
from pipeline.data.dataset import open_dataset
from pipeline.sampling.draw import Claimed
from pipeline.sampling.finish import finish_set
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.output_folder import ROWS, finished_shards


def draw_directly(model: Path, output: Path, **settings) -> list[str]:
    """The set as one actor in this process makes it; the digests of its shards."""
    config = SampleConfig(model=str(model), output=str(output), **settings)
    (plan,) = make_plan(config).sets
    claimed = Claimed(plan, 0)
    generator = ShardGenerator([claimed.cell()], plan.model.place.url)
    for task in claimed.missing:
        generator(asdict(task))
    finish_set(plan, finished_shards(plan.output, claimed.plan_sha256))
    return [row.sha256 for row in open_dataset(str(output)).rows]


def wait_for_rows(output: Path, count: int, job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(list((output / ROWS).glob("*.parquet"))) < count:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def modified(file: Path) -> int:
    return file.stat().st_mtime_ns


def actors_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the pool's actors: children of the raylet of the job's own cluster."""
    port = psutil.Process(job.pid).environ()["RAY_ADDRESS"].rpartition(":")[2]
    known = [(p, p.info["cmdline"] or [""]) for p in psutil.process_iter(["cmdline", "ppid"])]
    raylets = {
        process.pid
        for process, words in known
        if any(re.fullmatch(f"--gcs-address=.*:{port}", word) for word in words)
    }
    return [
        process
        for process, words in known
        if words[0].startswith("ray::MapWorker") and process.info["ppid"] in raylets
    ]
