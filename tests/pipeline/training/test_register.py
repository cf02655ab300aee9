"""A trained model in MLflow: the same weights, with its digests, and once."""

import json

import pytest
import torch
from mlflow import MlflowClient
from mlflow.models import Model
from safetensors.torch import load_file

from pipeline.config.model import DownsamplingUNetConfig, ModelConfig
from pipeline.config.train import TrackingConfig
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard
from pipeline.model.export_folder import write_export
from pipeline.storage import open_storage
from pipeline.tracking import open_run, prepare_store, store_uri
from pipeline.training.register import register_model

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")

NETWORK = DownsamplingUNetConfig(kind="downsampling_unet", width=8, multipliers=(1,), blocks=1)
CARD = ModelCard(
    model=ModelConfig(network=NETWORK), shape=(1, 4, 4), levels=256, classes=3,
    class_names=("a", "b", "c"), step=7, run="tiny", mlflow_run_id=None, dataset_digest="d1",
)  # fmt: skip


@pytest.fixture
def weights(tmp_path):
    """The weights of a model, exported to `tmp_path/run`."""
    weights = build_vdm(CARD.model, CARD.shape, CARD.classes, seed=1, levels=256).state_dict()
    write_export(open_storage(str(tmp_path / "run")), weights, CARD)
    return weights


def test_a_model_is_stored_once_with_signature_and_digests(weights, tmp_path):
    uri = store_uri(None, tmp_path / "mlflow")
    prepare_store(uri)
    run_id, client = open_run(uri, "models", "tiny", {}), MlflowClient(uri)
    run, config = open_storage(str(tmp_path / "run")), TrackingConfig(registered_model="images")
    for _ in range(2):
        register_model(run, config, uri, run_id)
    experiment = client.get_run(run_id).info.experiment_id
    (model,) = client.search_logged_models([experiment])
    assert (model.source_run_id, model.status) == (run_id, "READY")
    (made,) = client.get_run(run_id).outputs.model_outputs
    assert (made.model_id, made.step) == (model.model_id, 7)
    card = json.loads((tmp_path / "run/model.json").read_text())
    for digest in ("weights_sha256", "schedule_sha256"):
        assert model.tags[digest] == card[digest] != ""
    (version,) = client.search_model_versions("name = 'images'")
    assert (version.run_id, version.tags["step"]) == (run_id, "7")
    (folder,) = (tmp_path / "mlflow/artifacts").rglob("MLmodel")
    stored = load_file(folder.parent / "model.safetensors")
    assert all(torch.equal(stored[name], value) for name, value in weights.items())
    signature = Model.load(str(folder)).signature
    assert signature.inputs.input_names() == ["z", "gamma", "labels"]
    assert [spec.shape for spec in signature.inputs] == [(-1, 1, 4, 4), (-1,), (-1,)]
    assert {path.suffix for path in folder.parent.iterdir()} == {"", ".safetensors", ".json", ".md"}


def test_a_dead_server_is_a_warning_that_tells_what_to_do(weights, tmp_path, caplog):
    """The training that came before has not failed."""
    run = open_storage(str(tmp_path / "run"))
    register_model(run, TrackingConfig(), "http://127.0.0.1:9", "0" * 32)
    assert "MLflow did not take the model" in caplog.text
    assert "Run jobs.train again" in caplog.text
