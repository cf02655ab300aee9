"""What the page of a run in MLflow says of it, and where the page is."""

import json
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.code_version import code_version
from pipeline.tracking import DatasetUse, Tracker, open_run, origin
from pipeline.tracking.request import RunRequest

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


def test_the_page_of_a_run_says_what_it_is(store, caplog):
    """Who, with which job and code, on which data, in the view for trained models; once."""
    caplog.set_level("INFO")
    data = DatasetUse("train", "ab" * 32, "s3://me:hunter2@bucket/train", 5000, "training")
    run_id = open_run(store, "pages", "p", {}, tags=origin("train", "# Look here"), data=data)
    assert open_run(store, "pages", "p", {}, run_id, data=data) == run_id
    run = MlflowClient(store).get_run(run_id)
    experiment = MlflowClient(store).get_experiment(run.info.experiment_id)
    assert run.data.tags["mlflow.note.content"] == "# Look here"
    assert run.data.tags["mlflow.source.name"] == "jobs.train"
    assert run.data.tags["mlflow.user"]
    assert run.data.tags["code_sha256"] == code_version()
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("train", "ab" * 18)
    assert json.loads(used.dataset.profile) == {"num_rows": 5000}
    assert "bucket/train" in used.dataset.source
    assert "hunter2" not in used.dataset.source
    assert experiment.tags["mlflow.experimentKind"] == "custom_model_development"
    page = f"#/experiments/{experiment.experiment_id}/runs/{run_id}?workflowType=machine_learning"
    assert f"http://127.0.0.1:5000/{page}" in caplog.text


def test_a_late_run_keeps_its_data(store):
    """The request of a run that could not be opened carries the dataset along."""
    data = DatasetUse("train", "ab", "/data/train", 7, "training")
    late = RunRequest.make("late", "late", {}, {}, None, data)
    assert RunRequest.from_run_id(late.as_run_id()) == late
    Tracker(store, late.as_run_id(), Path(store.removeprefix("sqlite:///") + ".journal")).close()
    (run,) = MlflowClient(store).search_runs(
        [MlflowClient(store).get_experiment_by_name("late").experiment_id]
    )
    assert [used.dataset.digest for used in run.inputs.dataset_inputs] == ["ab"]
