"""Trained models in MLflow: a logged model of the run and, if wished, a version in the registry.

A model is safetensors and JSON with a signature: nothing in it is unpickled or run by MLflow. May
block for some seconds and raise what MLflow raises.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import mlflow
import numpy as np

from pipeline.tracking.store import existing_id

FLAVOR = "vdm"
DIGEST = "weights_sha256"


class TensorField(NamedTuple):
    """An input or output by name, numpy type and shape, -1 for any size."""

    name: str
    dtype: str
    shape: tuple[int, ...]


def log_model(
    uri: str,
    run_id: str,
    name: str,
    folder: Path,
    *,
    inputs: list[TensorField],
    outputs: list[TensorField],
    flavor: Mapping[str, Any],
    tags: Mapping[str, str],
    registered_name: str | None = None,
) -> str:
    """Give MLflow the files of `folder` as a model of the run; return the model's id.

    `tags` hold the `step` and the digest of the weights: a model that is there already is not
    stored twice.
    `flavor` tells a reader of `MLmodel`, which is added to the folder, what the files are.
    `registered_name` makes it a new version of that registered model.
    """
    client = mlflow.MlflowClient(uri)
    run_id = existing_id(client, uri, run_id)
    experiment = client.get_run(run_id).info.experiment_id
    model_id = _ready_model(client, experiment, tags)
    if model_id is None:
        model = client.create_logged_model(
            experiment, name, source_run_id=run_id, tags=dict(tags), model_type=FLAVOR
        )
        model_id = str(model.model_id)
        description = mlflow.models.Model(
            run_id=run_id,
            signature=mlflow.models.ModelSignature(_schema(inputs), _schema(outputs)),
            model_id=model_id,
        )
        description.add_flavor(FLAVOR, **flavor).save(str(folder / "MLmodel"))
        client.log_model_artifacts(model_id, str(folder))
        client.finalize_logged_model(model_id, "READY")
    if all(made.model_id != model_id for made in client.get_run(run_id).outputs.model_outputs):
        client.log_outputs(run_id, [mlflow.entities.LoggedModelOutput(model_id, int(tags["step"]))])
    if registered_name is not None:
        _register(client, registered_name, model_id, run_id, tags)
    return model_id


def _ready_model(
    client: mlflow.MlflowClient, experiment: str, tags: Mapping[str, str]
) -> str | None:
    """The model with these weights, if an earlier call has finished it."""
    found = client.search_logged_models([experiment], f"tags.{DIGEST} = '{tags[DIGEST]}'")
    return next((str(m.model_id) for m in found if m.status == "READY"), None)


def _register(
    client: mlflow.MlflowClient, name: str, model_id: str, run_id: str, tags: Mapping[str, str]
) -> None:
    """Make the model a version of `name`, unless it is one."""
    if not client.search_registered_models(f"name = '{name}'"):
        client.create_registered_model(name)
    versions = client.search_model_versions(f"name = '{name}'")
    if all(version.tags.get(DIGEST) != tags[DIGEST] for version in versions):
        source = client.get_logged_model(model_id).artifact_location
        client.create_model_version(name, source, run_id, dict(tags), model_id=model_id)


def _schema(fields: list[TensorField]) -> Any:
    specs = [mlflow.types.TensorSpec(np.dtype(f.dtype), f.shape, f.name) for f in fields]
    return mlflow.types.Schema(specs)
