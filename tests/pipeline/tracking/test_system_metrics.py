"""What the machine does reaches MLflow under MLflow's own names, whatever else tracks the run."""

import time

import pytest
from mlflow import MlflowClient

from pipeline.tracking import Tracker, open_run
from pipeline.tracking.request import RunRequest
from pipeline.tracking.system_metrics import SystemMetrics
from pipeline.tracking.writer import RunWriter

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")
CPU = "system/node_0/cpu_utilization_percentage"


def watch(store, run, folder, points):
    """Measure until the journal has so many lines."""
    system = SystemMetrics(store, run, folder, "node_0", seconds=0.02)
    journal = folder / "system-node_0.jsonl"
    while journal.read_bytes().count(b"\n") < points:
        time.sleep(0.02)
    system.close(timeout=30)


def test_points_go_on_after_a_restart(store, tmp_path):
    """Each point once, numbered through; the run's own metrics are another tracker's."""
    run = open_run(store, "tests", "system", {})
    watch(store, run, tmp_path, 2)
    watch(store, run, tmp_path, 5)
    tracker = Tracker(store, run, tmp_path / "journal.jsonl")
    tracker.metrics(1, {"loss": 1.0})
    tracker.close()
    history = MlflowClient(store).get_metric_history(run, CPU)
    assert [metric.step for metric in history] == [*range(len(history))]
    assert len(history) >= 5
    assert all(0 <= metric.value <= 100 for metric in history)
    names = MlflowClient(store).get_run(run).data.metrics
    assert {"loss", "system/node_0/system_memory_usage_megabytes"} <= set(names)


def test_only_the_run_itself_creates_the_run(store):
    """Machines that find the server back first wait for rank 0: there is one run, not two."""
    deferred = RunRequest.make("tests", "late", {}, {}, None).as_run_id()
    with pytest.raises(LookupError, match="'late' is not in MLflow yet"):
        RunWriter(store, deferred, group="system/node_1/")
    created = RunWriter(store, deferred).run_id
    assert RunWriter(store, deferred, group="system/node_1/").run_id == created
