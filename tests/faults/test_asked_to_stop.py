"""A run is asked to stop: it saves, leaves, and goes on from the very step when submitted again."""

from contextlib import suppress
from typing import Any

import psutil
import pytest

from fault_runs import CONTINUING

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_the_job_is_stopped_and_submitted_again(run: Any, cluster: Any, undisturbed: Any) -> None:
    """`ray job stop`: the state of the last step is saved, nothing is computed again.

    The workers are held until the driver has heard of it, lest they come to the end before.
    """
    here = run("cluster.grace_seconds=250")
    here.submit("first")
    here.wait_for(lambda: here.committed(40))
    with cluster.workers_held():
        cluster.ray_job("stop", "--no-wait", "first")
        here.wait_for(lambda: "asked to stop" in cluster.ray_job("logs", "first"), every=1.0)
    here.wait_for_job("first", "KILLED", "was stopped")
    half = here.curves(status="KILLED")["train/bits_per_dim"]
    last = here.checkpoints()[-1]
    assert 40 < last < 120
    assert [step for step, _ in half] == [*range(1, last + 1)]

    here.submit("second")
    here.wait_for_job("second", "FINISHED", "succeeded")
    assert f"{CONTINUING} {last}" in cluster.ray_job("logs", "second")
    assert here.curves() == undisturbed


def test_the_grace_period_is_kept(run: Any, cluster: Any, undisturbed: Any) -> None:
    """SIGTERM while a worker hangs: the driver leaves in time; the same command goes on later."""
    here = run("cluster.grace_seconds=2")
    driver = here.start()
    here.wait_for(lambda: here.committed(40), driver)
    hanging = cluster.workers()[-1]
    hanging.suspend()
    driver.terminate()
    here.finish(driver, code=1)
    assert "did not save and leave within cluster.grace_seconds=2" in here.log
    assert here.status() == "KILLED"
    with suppress(psutil.NoSuchProcess):
        hanging.kill()  # if Ray has not
    here.recover(here.start())
    assert here.curves() == undisturbed
