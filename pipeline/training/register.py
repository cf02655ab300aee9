"""The model of a finished run, handed to MLflow as a folder that stands alone."""

import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

from pipeline.config.model import ModelConfig, ScheduledClassifierConfig
from pipeline.config.train import TrackingConfig
from pipeline.model.classifier_export import (
    CLASSIFIER_CARD,
    CLASSIFIER_WEIGHTS,
    ClassifierCard,
    classifier_of_run,
    write_classifier,
)
from pipeline.model.export import (
    CARD,
    WEIGHTS,
    ModelCard,
    RunCard,
    load_model,
    load_run_card,
    newest_model,
)
from pipeline.model.export_folder import SCHEDULE, write_export
from pipeline.redact import one_line
from pipeline.storage import Location, open_storage
from pipeline.tracking.registry import DIGEST, TensorField, log_model

log = logging.getLogger(__name__)


class Files(NamedTuple):
    """A model's folder as MLflow is told of it."""

    inputs: list[TensorField]
    outputs: list[TensorField]
    flavor: dict[str, str]
    tags: dict[str, str]


def register_model(run: Location, config: TrackingConfig, uri: str, mlflow_run_id: str) -> None:
    """Hand over the newest model of `run`, unless MLflow has it.

    The run does not fail with the server: a warning tells what to do.
    """
    newest = newest_model(run)
    card = load_run_card(newest)
    with tempfile.TemporaryDirectory(prefix="vdm-model-") as folder:
        files = _write(newest, card, open_storage(folder))
        try:
            model_id = log_model(
                uri,
                mlflow_run_id,
                f"{card.run}-step-{card.step}",
                Path(folder),
                inputs=files.inputs,
                outputs=files.outputs,
                flavor=files.flavor,
                tags=files.tags,
                registered_name=config.registered_model,
            )
        except Exception as error:  # noqa: BLE001  whatever a client library raises
            log.warning(
                "MLflow did not take the model (%s); it is in %s. Run jobs.train again, with the "
                "same configuration, to hand it over",
                one_line(error),
                run,
            )
            return
    log.info("model of step %d: in MLflow as %s", card.step, model_id)


def _write(model: Location, card: RunCard, folder: Location) -> Files:
    """Write the export of `model` into `folder`; say what is in it."""
    match card.model:
        case ModelConfig():
            vdm, own = load_model(model)
            sealed = write_export(folder, vdm.state_dict(), own)
            flavor = {"weights": WEIGHTS, "card": CARD, "schedule": SCHEDULE}
            return Files(*signature(sealed), flavor, tags(sealed))
        case ScheduledClassifierConfig():
            written = write_classifier(folder, *classifier_of_run(model))
            flavor = {"weights": CLASSIFIER_WEIGHTS, "card": CLASSIFIER_CARD}
            return Files(*_classifier_signature(written), flavor, _classifier_tags(card, written))


def signature(card: ModelCard) -> tuple[list[TensorField], list[TensorField]]:
    """What the denoiser takes, (z, γ, labels), and its answer."""
    image, each = (-1, *card.shape), (-1,)
    inputs = [TensorField("z", "float32", image), TensorField("gamma", "float32", each)]
    if card.model.conditional:
        inputs.append(TensorField("labels", "int64", each))
    return inputs, [TensorField("prediction", "float32", image)]


def _classifier_signature(card: ClassifierCard) -> tuple[list[TensorField], list[TensorField]]:
    """What it takes, (z, γ), and its logits."""
    inputs = [
        TensorField("z", "float32", (-1, *card.shape)),
        TensorField("gamma", "float32", (-1,)),
    ]
    return inputs, [TensorField("logits", "float32", (-1, card.classes))]


def _classifier_tags(run: RunCard, card: ClassifierCard) -> dict[str, str]:
    return {
        DIGEST: card.weights_sha256,
        "schedule_sha256": card.schedule_sha256,
        "dataset_digest": run.dataset_digest,
        "step": str(run.step),
        "average": run.average.name,
    }


def tags(card: ModelCard) -> dict[str, str]:
    """What finds a model again: its digests, where it comes from, and which average it is."""
    return {
        DIGEST: card.weights_sha256,
        "schedule_sha256": card.schedule_sha256,
        "dataset_digest": card.dataset_digest,
        "step": str(card.step),
        "average": card.average.name,
        "prediction": card.model.prediction,
    }
