"""Tracking to a real MLflow server that is killed and comes back, and to a store under rush."""

import subprocess
import sys
import time

import numpy as np
import pytest
from mlflow import MlflowClient

from mlflow_server import Server
from pipeline.tracking import Tracker, close_run, open_run, prepare_store


@pytest.mark.slow
def test_four_processes_may_prepare_one_store(tmp_path):
    """Jobs submitted together on a fresh SQLite file all come through."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    code = f"from pipeline.tracking import prepare_store; prepare_store({uri!r})"
    jobs = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(4)]
    assert [job.wait(timeout=120) for job in jobs] == [0] * 4


def points(uri, run_id, key):
    """(step, value) of a metric, as MLflow has them."""
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run_id, key)]


@pytest.mark.slow
def test_a_server_killed_mid_run_loses_and_doubles_nothing(tmp_path):
    """Reports before, during and after an outage, a crash and a resume arrive once each."""
    server = Server(tmp_path)
    journal = tmp_path / "journal.jsonl"
    server.start()
    try:
        prepare_store(server.uri)
        run_id = open_run(server.uri, "tests", "outage", {"seed": 1})
        tracker = Tracker(server.uri, run_id, journal, period=0.05)
        report(tracker, range(200))
        server.kill()
        report(tracker, range(200, 400))
        tracker.image(300, "samples", np.zeros((4, 4), np.uint8))
        server.start()
        report(tracker, range(400, 500))
        tracker.close(timeout=60)
        assert points(server.uri, run_id, "loss") == [(s, s) for s in range(500)]
        server.kill()
        assert open_run(server.uri, "tests", "outage", {"seed": 1}, run_id) == run_id
        crashed = Tracker(server.uri, run_id, journal, period=0.05)
        report(crashed, range(450, 600))
        crashed.close(timeout=0.5)
        server.start()
        assert open_run(server.uri, "tests", "outage", {"seed": 1}, run_id) == run_id
        resumed = Tracker(server.uri, run_id, journal, period=0.05)
        report(resumed, range(550, 700))
        resumed.close(timeout=60)
        close_run(server.uri, run_id, "FINISHED")
        assert points(server.uri, run_id, "loss") == [(s, s) for s in range(700)]
        images = MlflowClient(server.uri).list_artifacts(run_id, "images/samples")
        assert [image.path for image in images] == ["images/samples/00000300.png"]
        assert MlflowClient(server.uri).get_run(run_id).info.status == "FINISHED"
    finally:
        server.kill()


def report(tracker, steps):
    """Reports one value a step, a few milliseconds apart."""
    for step in steps:
        tracker.metrics(step, {"loss": step})
        time.sleep(0.002)
