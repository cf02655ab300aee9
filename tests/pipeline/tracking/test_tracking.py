"""Tracking with a real SQLite store, and with no server where one should be.

What is protected: every report reaches MLflow once and only once, whatever dies in between; no
call waits for MLflow; no secret leaves the process; wrong input is told before work starts.
"""

import json
import logging
import math
import resource
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from mlflow import MlflowClient
from PIL import Image

from pipeline.errors import InputError
from pipeline.tracking import (
    Tracker,
    close_run,
    open_run,
    prepare_store,
    read_records,
    store_uri,
    ui_command,
)

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

DEAD = "http://127.0.0.1:9"  # the discard port: nothing listens there


@pytest.fixture
def run(store, request):
    """A fresh run in the store."""
    return open_run(store, "tests", request.node.name, {"seed": 1})


def points(uri, run_id, key):
    """(step, value) of a metric, as MLflow has them."""
    return [(m.step, m.value) for m in MlflowClient(uri).get_metric_history(run_id, key)]


def params(uri, run_id):
    return MlflowClient(uri).get_run(run_id).data.params


def tags(uri, run_id):
    return MlflowClient(uri).get_run(run_id).data.tags


def artifact(uri, run_id, name, folder):
    return MlflowClient(uri).download_artifacts(run_id, name, str(folder))


def test_reports_reach_the_store(store, run, tmp_path):
    """Metrics, figures, images, texts and JSON arrive under their names with their content."""
    tracker = Tracker(store, run, tmp_path / "journal.jsonl")
    for step in (10, 20):
        tracker.metrics(step, {"train/bits_per_dim": step / 8, "schedule/gamma_0": -13.3})
    figure = Figure()
    figure.subplots().plot([0, 1])
    tracker.figure(20, "schedule", figure)
    pixels = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    tracker.image(20, "samples", pixels)
    tracker.text("notes/model.txt", "30 million parameters")
    tracker.json("plan.json", {"workers": 2})
    tracker.close()
    assert points(store, run, "train/bits_per_dim") == [(10, 1.25), (20, 2.5)]
    image = artifact(store, run, "images/samples/00000020.png", tmp_path)
    np.testing.assert_array_equal(np.asarray(Image.open(image)), pixels)
    with Image.open(artifact(store, run, "figures/schedule/00000020.png", tmp_path)) as drawn:
        assert drawn.format == "PNG"
    with open(artifact(store, run, "notes/model.txt", tmp_path)) as file:
        assert file.read() == "30 million parameters"
    with open(artifact(store, run, "plan.json", tmp_path)) as file:
        assert json.load(file) == {"workers": 2}


def test_no_step_twice_after_a_resume(store, run, tmp_path):
    """Steps since the checkpoint, computed again in a new process, leave one point each."""
    first = Tracker(store, run, tmp_path / "journal.jsonl")
    for step in range(100, 131, 10):
        first.metrics(step, {"loss": step})
    first.close()
    again = Tracker(store, run, tmp_path / "journal.jsonl")
    for step in range(110, 161, 10):
        again.metrics(step, {"loss": step})
    again.close()
    expected = [(step, step) for step in range(100, 161, 10)]
    assert points(store, run, "loss") == expected
    assert len(list(read_records(tmp_path / "journal.jsonl"))) == 10


def test_no_step_twice_when_the_journal_is_lost(store, run, tmp_path):
    """On another machine, without the first journal, MLflow itself says what it has."""
    for folder, steps in (("one", (10, 20, 30)), ("two", (20, 30, 40))):
        tracker = Tracker(store, run, tmp_path / folder / "journal.jsonl")
        for step in steps:
            tracker.metrics(step, {"loss": step})
        tracker.close()
    assert points(store, run, "loss") == [(s, s) for s in (10, 20, 30, 40)]


def test_the_journal_fills_a_new_run(store, run, tmp_path):
    """If the tracking database was lost, a new run gets the whole history."""
    tracker = Tracker(store, run, tmp_path / "journal.jsonl")
    tracker.metrics(10, {"loss": 1.0})
    tracker.close()
    other = open_run(store, "tests", "after the loss", {}, run_id="0" * 32)
    assert other != run
    Tracker(store, other, tmp_path / "journal.jsonl").close()
    assert points(store, other, "loss") == [(10, 1.0)]


def test_non_finite_values_are_counted_not_stored(store, run, tmp_path):
    """NaN and infinity never become a number in MLflow; a count says where they occurred."""
    tracker = Tracker(store, run, tmp_path / "journal.jsonl")
    tracker.metrics(1, {"loss": math.nan, "norm": 2.0})
    tracker.metrics(2, {"loss": math.inf, "norm": 3.0})
    tracker.close()
    assert points(store, run, "loss_nonfinite") == [(1, 1.0), (2, 1.0)]
    assert points(store, run, "norm") == [(1, 2.0), (2, 3.0)]
    assert "loss" not in MlflowClient(store).get_run(run).data.metrics


def test_params_may_change_on_resume(store, caplog):
    """The first value stays, the new one becomes a tag; nothing raises; the run is RUNNING."""
    run_id = open_run(store, "tests", "p", {"model": {"width": 64}, "steps": 100})
    close_run(store, run_id, "FAILED")
    again = open_run(store, "tests", "p", {"model": {"width": 64}, "steps": 200, "new": 1}, run_id)
    assert again == run_id
    assert params(store, run_id) == {"model.width": "64", "steps": "100", "new": "1"}
    assert tags(store, run_id)["changed.steps"] == "200"
    assert "steps changed on resume: 100, now 200" in caplog.text
    assert MlflowClient(store).get_run(run_id).info.status == "RUNNING"
    close_run(store, run_id, "KILLED")
    assert MlflowClient(store).get_run(run_id).info.status == "KILLED"


def test_many_and_long_params(store, tmp_path):
    """250 parameters arrive; a value over 6000 characters is cut visibly and kept whole beside."""
    config = {f"key{i}": i for i in range(250)} | {"long": "x" * 7000}
    run_id = open_run(store, "tests", "many", config)
    stored = params(store, run_id)
    assert len(stored) == 251
    assert len(stored["long"]) == 6000
    assert stored["long"].endswith("[cut, see config.json]")
    with open(artifact(store, run_id, "config.json", tmp_path)) as file:
        assert json.load(file)["long"] == "x" * 7000


def test_nested_runs(store, run):
    """A sampling or evaluation run hangs under the training run it belongs to."""
    child = open_run(store, "tests", "evaluate", {}, parent_run_id=run, tags={"kind": "evaluate"})
    assert tags(store, child)["mlflow.parentRunId"] == run
    assert tags(store, child)["kind"] == "evaluate"


def test_no_secret_reaches_store_journal_or_message(store, tmp_path, caplog):
    """Planted secrets are found neither in any file of the store and journal nor in the log."""
    planted = "hunter2"
    config = {
        "storage": {"access_key": planted, "url": f"s3://me:{planted}@host/bucket"},
        "tracking": f"https://host/x?token={planted}&page=1",
        "hosts": [{"password": planted}],
    }
    run_id = open_run(store, "tests", "s", config, tags={"note": f"ftp://u:{planted}@h"})
    tracker = Tracker(store, run_id, tmp_path / "journal.jsonl")
    tracker.json("config.json", config)
    tracker.text("log.txt", f"read from s3://me:{planted}@host")
    tracker.close()
    prepare_store(DEAD.replace("//", f"//me:{planted}@"))
    assert "does not answer" in caplog.text
    with pytest.raises(InputError) as caught:
        store_uri(f"gopher://me:{planted}@host", tmp_path)
    assert planted not in caplog.text + str(caught.value)
    store_folder = Path(store.removeprefix("sqlite:///")).parent
    for path in (*store_folder.rglob("*"), *tmp_path.rglob("*")):
        assert path.is_dir() or planted.encode() not in path.read_bytes(), path
    assert params(store, run_id)["storage.url"] == "s3://***@host/bucket"


def test_a_dead_server_delays_nothing_and_is_told_once(tmp_path, caplog):
    """With no server at all, reports go to the journal; one warning at the start, one at the end.

    The deferred id carries the run's request, so the run can be made when a store is there.
    """
    caplog.set_level(logging.WARNING, "pipeline")
    prepare_store(DEAD)
    run_id = open_run(DEAD, "tests", "late", {"seed": 7})
    assert run_id.startswith("deferred:")
    caplog.clear()
    tracker = Tracker(DEAD, run_id, tmp_path / "journal.jsonl", period=0.01)
    for step in range(1000):
        tracker.metrics(step, {"loss": step})
    tracker.close(timeout=20)
    close_run(DEAD, run_id, "FINISHED")
    messages = [record.message for record in caplog.records]
    assert sum("takes no reports" in message for message in messages) == 1
    assert sum("1000 reports are not in MLflow" in message for message in messages) == 1
    assert str(tmp_path / "journal.jsonl") in caplog.text
    assert len(list(read_records(tmp_path / "journal.jsonl"))) == 1000


def test_a_deferred_run_is_made_once(store, tmp_path):
    """Whoever meets the deferred id when the store answers finds or makes the one run."""
    deferred = open_run(DEAD, "tests", "deferred", {"seed": 7})
    tracker = Tracker(store, deferred, tmp_path / "journal.jsonl")
    tracker.metrics(1, {"loss": 1.0})
    tracker.close()
    run_id = open_run(store, "tests", "deferred", {"seed": 7}, deferred)
    close_run(store, deferred, "FINISHED")
    found = MlflowClient(store).get_run(run_id)
    assert (found.data.params, found.info.status) == ({"seed": "7"}, "FINISHED")
    assert points(store, run_id, "loss") == [(1, 1.0)]


def test_a_full_disk_does_not_stop_training(store, run, tmp_path, caplog):
    """A line the disk takes in part is warned about; once there is room, reports go on."""
    journal = tmp_path / "journal.jsonl"
    tracker = Tracker(DEAD, run, journal)
    tracker.metrics(1, {"loss": 1.0})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (journal.stat().st_size + 20, hard))
    try:
        tracker.metrics(2, {"loss": 2.0})
        tracker.metrics(3, {"loss": 3.0})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    tracker.metrics(4, {"loss": 4.0})
    tracker.close()
    assert caplog.text.count("reports are being lost") == 1
    Tracker(store, run, journal).close()
    assert points(store, run, "loss") == [(1, 1.0), (4, 4.0)]


@pytest.mark.parametrize("name", ["a[0]", "", "/a", "a//b", "a/../b", "a\n", "x" * 251])
def test_names_mlflow_cannot_store_are_refused(store, run, tmp_path, name):
    """A bad name is a programming error and is told at once, not lost in a thread."""
    tracker = Tracker(store, run, tmp_path / "journal.jsonl")
    with pytest.raises(ValueError, match="cannot name a metric or artifact"):
        tracker.metrics(1, {name: 1.0})
    tracker.close()


def test_addresses(tmp_path, monkeypatch):
    """Addresses become absolute on the driver; what cannot work is refused with a remedy."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri(None, "runs") == f"sqlite:///{tmp_path}/runs/mlflow.db"
    assert store_uri("sqlite:///a.db", "runs") == f"sqlite:///{tmp_path}/a.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://tracking:5000")
    assert store_uri(None, "runs") == "http://tracking:5000"
    with pytest.raises(InputError, match="neither an http"):
        store_uri("./mlruns", "runs")
    with pytest.raises(InputError, match="relative path"):
        prepare_store("sqlite:///a.db")
    assert (
        ui_command("sqlite:////a b/m.db") == "mlflow ui --backend-store-uri 'sqlite:////a b/m.db'"
    )
    assert ui_command("http://me:pw@host") == "http://***@host"


def test_a_store_that_cannot_be_used_is_told_at_once(tmp_path):
    """A file that is no database and a folder that is a file are InputErrors that name the path."""
    (tmp_path / "garbage.db").write_bytes(b"no database at all, but long enough" * 10)
    (tmp_path / "file").touch()
    for place in ("garbage.db", "file/mlflow.db"):
        with pytest.raises(InputError, match=place):
            prepare_store(f"sqlite:///{tmp_path}/{place}")


def test_a_deleted_experiment_is_told(store):
    """Runs cannot go to a deleted experiment; the error names it."""
    client = MlflowClient(store)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(InputError, match="'gone'"):
        open_run(store, "gone", "r", {})
