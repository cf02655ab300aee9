"""Workers, nodes and the driver die; the run goes on from its last checkpoint as if they had not.

Each test injects its fault for real on a cluster of several raylets. Afterwards every curve of
the run equals that of the undisturbed run, value for value, with each step once.
"""

import os
import signal
import time
from contextlib import suppress
from typing import Any

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_worker_is_killed_in_mid_step(run: Any, cluster: Any, undisturbed: Any) -> None:
    """kill -9: at most the steps since the checkpoint are computed again."""
    here = run()
    driver = here.start()
    here.wait_for(lambda: here.committed(40), driver)
    cluster.workers()[-1].kill()
    here.recover(driver)
    assert here.curves() == undisturbed


def test_a_node_is_lost(run: Any, cluster: Any, undisturbed: Any) -> None:
    """The raylet and all its processes at once; the workers come back when a node has joined."""
    here = run()
    driver = here.start()
    here.wait_for(lambda: here.committed(40), driver)
    cluster.lose_node()
    cluster.add_node()
    here.recover(driver)
    assert here.curves() == undisturbed


def test_the_driver_is_killed_and_the_command_given_again(run: Any, undisturbed: Any) -> None:
    """kill -9 of the driver ends the workers; the same command continues the same MLflow run."""
    here = run()
    driver = here.start()
    here.wait_for(lambda: here.committed(40), driver)
    driver.kill()
    driver.wait()
    here.recover(here.start())
    assert here.curves() == undisturbed


def test_a_worker_hangs(run: Any, cluster: Any, undisturbed: Any) -> None:
    """SIGSTOP: the other rank's collective times out, the group is replaced, the run goes on."""
    here = run("cluster.collective_timeout_seconds=30")
    driver = here.start()
    here.wait_for(lambda: here.committed(40), driver)
    os.kill(cluster.workers()[-1].pid, signal.SIGSTOP)
    here.recover(driver)
    assert here.curves() == undisturbed


def test_a_loader_process_is_killed(run: Any, cluster: Any, undisturbed: Any) -> None:
    """kill -9: another takes its place, the workers do not even notice."""
    here = run("data.loader_workers=1")
    driver = here.start()
    here.wait_for(lambda: here.committed(40), driver)
    loaders(cluster)[0].kill()
    here.finish(driver)
    assert "another takes its place" in here.log
    assert "continuing tiny" not in here.log
    assert here.curves() == undisturbed


def test_restarts_that_do_not_help_are_given_up(run: Any, cluster: Any) -> None:
    """Two without a step of progress are enough, whatever `max_failures` allows.

    Here no loader process lives long enough to make a batch.
    """
    here = run("data.loader_workers=1", "cluster.max_failures=50")
    driver = here.start()
    while driver.poll() is None:
        for process in loaders(cluster):
            with suppress(psutil.NoSuchProcess):
                process.kill()
        time.sleep(0.02)
    here.finish(driver, code=1)
    error = here.log.rpartition("error: ")[2]
    assert "2 restarts of the workers in a row came no further than step 0" in error
    assert "so did the 3 that replaced it" in error
    assert "PeerError" not in error.splitlines()[0]
    assert here.status() == "FAILED"


def loaders(cluster: Any) -> list[psutil.Process]:
    """The loader processes of all workers."""
    workers = [worker for node in cluster.nodes for worker in node.workers()]
    found = []
    for worker in workers:
        with suppress(psutil.NoSuchProcess):
            found += [
                child for child in worker.children() if "spawn_main" in " ".join(child.cmdline())
            ]
    return found
