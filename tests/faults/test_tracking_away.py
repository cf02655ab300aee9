"""The MLflow server is down when the run begins, comes, is killed, and comes back too late."""

from typing import Any

import pytest

from mlflow_server import Server


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_server_comes_and_goes(run: Any, cluster: Any, undisturbed: Any) -> None:
    """Training does not care; when the command is given again one run has every step once.

    The workers are held while the server starts, which takes longer than they do.
    """
    here = run()
    server = Server(here.folder)
    here.environment["MLFLOW_TRACKING_URI"] = server.uri
    driver = here.start()
    here.wait_for(lambda: here.committed(40), driver)
    with cluster.workers_held():
        server.start()
    try:
        here.wait_for(lambda: here.committed(80), driver)
        server.kill()
        here.finish(driver)
        assert "does not answer" in here.log
        server.start()
        here.wait_for(lambda: all_sent(here))
        assert "has done its 120 steps already" in here.log
        assert here.curves(server.store) == undisturbed
    finally:
        server.kill()


def all_sent(here: Any) -> bool:
    """The command once more; a server on a busy machine may answer too late for some of it."""
    said = len(here.log)
    here.finish(here.start())
    return "reports are not in MLflow" not in here.log[said:]
