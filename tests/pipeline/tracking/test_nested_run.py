"""A sampling or evaluation is a run of its own below the training run, wherever that is there."""

import logging
import socket
from pathlib import Path

import pytest
from mlflow import MlflowClient

from pipeline.config.model import DownsamplingUNetConfig, ModelConfig
from pipeline.errors import InputError
from pipeline.model.export import ModelCard
from pipeline.storage import open_storage
from pipeline.tracking import DatasetUse, open_run
from pipeline.tracking.journal import Journal
from pipeline.tracking.nested_run import nested_run
from pipeline.tracking.waiting import WaitingRun, send_waiting, waiting_folder
from pipeline.training.run_record import RunRecord, write_run

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

NETWORK = DownsamplingUNetConfig(kind="downsampling_unet", width=8, multipliers=(1,), blocks=1)
CARD = ModelCard(
    model=ModelConfig(network=NETWORK), shape=(1, 4, 4), levels=256, classes=None, class_names=(),
    step=7, run="tiny", mlflow_run_id=None, dataset_digest="", weights_sha256="ab",
)  # fmt: skip


@pytest.fixture
def output(tmp_path):
    """Where the job writes."""
    return open_storage(str(tmp_path / "output"))


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


def test_the_job_is_recorded_below_its_training_run(store, training, output):
    parent = open_run(store, "toys", "tiny", {})
    place, data = training(store, parent), DatasetUse("test", "d" * 64, "/data", 9, "evaluation")
    with nested_run(place, CARD, "evaluate", {"draws": 4}, output, data) as tracker:
        tracker.metrics(CARD.step, {"test/bits_per_dim": 3.5})
    (run,) = children(store, parent)
    assert run.info.run_name == "tiny evaluate after step 7"
    assert run.info.status == "FINISHED"
    assert run.data.params == {"draws": "4"}
    assert run.data.metrics == {"test/bits_per_dim": 3.5}
    assert run.data.tags["job"] == "evaluate"
    assert run.data.tags["mlflow.source.name"] == "jobs.evaluate"
    assert str(output) in run.data.tags["mlflow.note.content"]
    assert [used.dataset.name for used in run.inputs.dataset_inputs] == ["test"]
    assert MlflowClient(store).get_run(parent).data.metrics == {}


@pytest.mark.parametrize(
    ("error", "status"), [(RuntimeError, "FAILED"), (KeyboardInterrupt, "KILLED")]
)
def test_a_job_that_ends_early_is_recorded_as_such(store, training, output, error, status):
    parent = open_run(store, "toys", "tiny", {})
    with pytest.raises(error), nested_run(training(store, parent), CARD, "sample", {}, output):
        raise error
    assert [run.info.status for run in children(store, parent)] == [status]


def test_a_copied_model_goes_without_and_says_so(tmp_path, output, caplog):
    caplog.set_level(logging.INFO)
    with nested_run(open_storage(str(tmp_path / "copy")), CARD, "sample", {}, output) as tracker:
        assert tracker is None
    (line,) = caplog.messages
    assert "not tracked" in line
    assert "not in the folder of a training run" in line


def test_a_store_that_is_gone_is_not_made_anew(tmp_path, training, output, caplog):
    """A run folder that was moved to another machine does not grow an empty store there."""
    caplog.set_level(logging.INFO)
    gone = tmp_path / "elsewhere" / "mlflow.db"
    with nested_run(training(f"sqlite:///{gone}", "id"), CARD, "sample", {}, output) as tracker:
        assert tracker is None
    assert not gone.parent.exists()
    assert "is not here" in caplog.text


def test_a_login_goes_to_no_address_that_a_file_names(training, output, caplog, monkeypatch):
    """A model from elsewhere may lie in a run whose MLflow is somebody else's server."""
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "hunter2")
    with socket.create_server(("127.0.0.1", 0)) as stranger:
        stranger.setblocking(False)
        address = f"http://127.0.0.1:{stranger.getsockname()[1]}"
        with nested_run(training(address, "id"), CARD, "sample", {}, output) as tracker:
            assert tracker is None
        with pytest.raises(BlockingIOError):  # nobody has called
            stranger.accept()
    assert "a login goes to MLFLOW_TRACKING_URI alone" in caplog.text
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    with nested_run(training(address, "id"), CARD, "sample", {}, output) as tracker:
        assert tracker is not None


def test_what_cannot_wait_or_be_read_again_is_named(store, training, output):
    """A disk that is full or read-only, and a record that was cut short on one."""
    parent, waiting = open_run(store, "toys", "tiny", {}), waiting_folder(output)
    waiting.write_text("a file in the way")
    with (
        pytest.raises(InputError, match=r"cannot write .*output.tracking"),
        nested_run(training(store, parent), CARD, "sample", {}, output),
    ):
        pass
    waiting.unlink()
    (waiting / "one").mkdir(parents=True)
    (waiting / "one/run.json").write_text('{"tracking_')
    with pytest.raises(InputError, match=r"run.json is damaged.*delete .*one"):
        send_waiting(output)


def test_what_a_dead_server_missed_is_sent_by_the_next_job(store, training, output, monkeypatch):
    """Figures, pictures and status of the first job, in a run of its own; then nothing waits."""
    parent, waiting = open_run(store, "toys", "tiny", {}), output.path + ".tracking"
    dead = "http://127.0.0.1:9"
    with nested_run(training(dead, parent), CARD, "evaluate", {"draws": 4}, output) as tracker:
        tracker.metrics(CARD.step, {"test/bits_per_dim": 3.5})
        tracker.json("likelihood.json", {"images": 2})
    (record,) = Path(waiting).glob("*/run.json")
    record.write_text(record.read_text().replace(dead, store))  # the server is back
    with nested_run(training(store, parent), CARD, "sample", {}, output):
        pass
    first, second = sorted(children(store, parent), key=lambda run: run.data.tags["job"])
    assert (first.data.tags["job"], second.data.tags["job"]) == ("evaluate", "sample")
    assert first.data.metrics == {"test/bits_per_dim": 3.5}
    assert first.info.status == second.info.status == "FINISHED"
    stored = MlflowClient(store).list_artifacts(first.info.run_id)
    assert "likelihood.json" in [artifact.path for artifact in stored]
    assert not Path(waiting).exists()


def test_a_killed_job_is_closed_by_the_next_one(store, training, output):
    """kill -9: the run is not RUNNING for ever, and what it had measured arrives."""
    parent = open_run(store, "toys", "tiny", {})
    run = WaitingRun.begin(output, store, open_run(store, "toys", "x", {}, parent_run_id=parent))
    Journal(run.folder / "journal.jsonl").append({"time": 1, "step": 7, "values": {"a": 1.0}})
    send_waiting(output)
    (found,) = children(store, parent)
    assert (found.info.status, found.data.metrics) == ("FAILED", {"a": 1.0})
    assert not waiting_folder(output).exists()
