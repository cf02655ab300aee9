"""Workers die; the run goes on from its last checkpoint as if they had not.

Each test injects its fault for real on a cluster of several raylets. Afterwards every curve of
the run equals that of the undisturbed run, value for value, with each step once.
"""

from typing import Any

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
