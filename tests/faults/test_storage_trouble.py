"""Storage fails while checkpoints are written, or what it holds is damaged afterwards."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from pyarrow import fs

from fault_runs import CONTINUING
from s3_server import s3_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
TRACKED = "tracking.uri=sqlite:///{}/runs/mlflow.db"


def test_the_newest_checkpoint_is_damaged(run: Any, undisturbed: Any) -> None:
    """A bit that flipped: the one before is taken, which the log says."""
    here = run()
    driver = here.start()
    here.wait_for(lambda: here.committed(80), driver)
    driver.kill()
    driver.wait()
    newest = here.folder / "runs/tiny/checkpoint_000000080"
    largest = max(newest.rglob("*"), key=lambda file: file.stat().st_size)
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    here.recover(here.start())
    assert "checkpoint_000000080 is damaged" in here.log
    assert "continuing tiny after step 40" in here.log
    assert here.curves() == undisturbed


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a few checkpoints."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", place], check=False, capture_output=True
    )
    if mounted.returncode:
        pytest.skip(f"this user may not mount a tmpfs: {mounted.stderr.decode().strip()}")
    yield place
    subprocess.run(["umount", "--lazy", place], check=True)


def test_the_disk_is_full(run: Any, small_disk: Path, undisturbed: Any) -> None:
    """ENOSPC: one message, what was saved before stays; given space, the run goes on."""
    here = run(f"storage_path={small_disk}", "checkpoint.failures_allowed=0")
    here.overrides += ("checkpoint.retry_seconds=1", TRACKED.format(here.folder))
    here.runs = small_disk
    driver = here.start()
    here.wait_for(lambda: here.committed(40), driver)
    ballast = small_disk / "ballast"
    with suppress(OSError), ballast.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    here.finish(driver, code=2)
    error = here.log.rpartition("error: ")[2]
    assert "No space left on device" in error
    assert "Traceback" not in error
    assert here.checkpoints() == [40]
    assert here.status() == "FAILED"
    ballast.unlink()
    here.recover(here.start())
    assert here.curves() == undisturbed


@contextmanager
def held(process: "subprocess.Popen[bytes]") -> Iterator[None]:
    """A server that answers nobody for a while."""
    os.kill(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process.pid, signal.SIGCONT)


@pytest.mark.parametrize("kills", [False, True], ids=["outage", "outage and kill"])
def test_the_store_does_not_answer(run: Any, cluster: Any, undisturbed: Any, kills: bool) -> None:
    """An object store hangs when a checkpoint is due: training goes on, it is written later.

    A worker that is killed then leaves half a checkpoint behind, which does not count.
    """
    here = run("storage_path=s3://faults/runs")
    here.overrides += (TRACKED.format(here.folder),)
    with s3_server(here.folder / "s3.log") as (endpoint, process):
        here.environment |= {
            "AWS_ENDPOINT_URL": endpoint,
            "AWS_ACCESS_KEY_ID": "AKIDTEST",
            "AWS_SECRET_ACCESS_KEY": "no secret",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
        bucket = fs.S3FileSystem(
            access_key="any", secret_key="any", region="us-east-1",
            endpoint_override=endpoint, allow_bucket_creation=True,
        )  # fmt: skip
        bucket.create_dir("faults")

        def committed(step: int) -> bool:
            commit = f"faults/runs/tiny/checkpoint_{step:09d}/checkpoint.json"
            return bool(bucket.get_file_info(commit).type == fs.FileType.File)

        job = "outage-and-kill" if kills else "outage"
        here.submit(job)
        here.wait_for(lambda: committed(40), every=0.1)
        with held(process):
            here.wait_for(lambda: here.step() > 80, every=0.2)
            if kills:
                cluster.workers()[-1].kill()
        here.wait_for_job(job, "FINISHED", "succeeded")
        assert (CONTINUING in cluster.ray_job("logs", job)) == kills
    assert here.curves() == undisturbed
