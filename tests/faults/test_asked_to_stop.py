"""A run is asked to stop: it saves, leaves, and goes on from the very step when submitted again."""

from contextlib import suppress
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


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
