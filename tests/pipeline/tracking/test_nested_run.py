"""A sampling or evaluation is a run of its own below the training run, wherever that is there."""

import logging

import pytest
from mlflow import MlflowClient

from pipeline.config.model import DownsamplingUNetConfig, ModelConfig
from pipeline.model.export import ModelCard
from pipeline.storage import open_storage
from pipeline.tracking import open_run
from pipeline.tracking.nested_run import nested_run
from pipeline.training.run_record import RunRecord, write_run

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

NETWORK = DownsamplingUNetConfig(kind="downsampling_unet", width=8, multipliers=(1,), blocks=1)
CARD = ModelCard(
    model=ModelConfig(network=NETWORK), shape=(1, 4, 4), levels=256, classes=None, class_names=(),
    step=7, run="tiny", mlflow_run_id=None, dataset_digest="", weights_sha256="ab",
)  # fmt: skip


@pytest.fixture
def training(tmp_path, tiny):
    """training(uri, run_id): the folder of a run's checkpoint, with the run's record beside it."""

    def write(uri: str, run_id: str):
        run = open_storage(str(tmp_path / "run"))
        write_run(run, RunRecord(
            config=tiny("tracking.experiment=toys"), dataset_digest="", mlflow_run_id=run_id,
            tracking_uri=uri,
        ))  # fmt: skip
        return run / "checkpoint_000000007"

    return write


def children(uri: str, parent: str) -> list:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("toys")
    return client.search_runs([experiment.experiment_id], f"tags.`mlflow.parentRunId` = '{parent}'")


def test_the_job_is_recorded_below_its_training_run(store, training):
    parent = open_run(store, "toys", "tiny", {})
    with nested_run(training(store, parent), CARD, "evaluate", {"draws": 4}) as tracker:
        tracker.metrics(CARD.step, {"test/bits_per_dim": 3.5})
    (run,) = children(store, parent)
    assert run.info.run_name == "tiny evaluate after step 7"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"draws": "4"}
    assert run.data.metrics == {"test/bits_per_dim": 3.5}
    assert run.data.tags["job"] == "evaluate"
    assert MlflowClient(store).get_run(parent).data.metrics == {}


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_job_that_ends_early_is_recorded_as_such(store, training, error, status):
    parent = open_run(store, "toys", "tiny", {})
    with pytest.raises(error), nested_run(training(store, parent), CARD, "sample", {}):
        raise error
    assert [run.info.status for run in children(store, parent)] == [status]


def test_a_copied_model_goes_without_and_says_so(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    with nested_run(open_storage(str(tmp_path / "copy")), CARD, "sample", {}) as tracker:
        assert tracker is None
    (line,) = caplog.messages
    assert "not tracked" in line
    assert "not in the folder of a training run" in line


def test_a_store_that_is_gone_is_not_made_anew(tmp_path, training, caplog):
    """A run folder that was moved to another machine does not grow an empty store there."""
    caplog.set_level(logging.INFO)
    gone = tmp_path / "elsewhere" / "mlflow.db"
    with nested_run(training(f"sqlite:///{gone}", "id"), CARD, "sample", {}) as tracker:
        assert tracker is None
    assert not gone.parent.exists()
    assert "is not here" in caplog.text


def test_a_dead_server_does_not_stop_the_job(training, caplog):
    caplog.set_level(logging.INFO)
    with nested_run(training("http://127.0.0.1:9", "id"), CARD, "sample", {}) as tracker:
        assert tracker is None
    assert "not tracked" in caplog.text
