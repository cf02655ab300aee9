"""The model of a finished run, handed to MLflow as a folder that stands alone."""

import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

from pipeline.config.ladder import LatentVDMConfig
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
from pipeline.model.generative import Generative
from pipeline.redact import one_line
from pipeline.storage import Location, open_storage
from pipeline.tracking.registry import DIGEST, TensorField, log_model
from vdm_core import VAE, VDM, HierarchicalVAE, LatentVDM
from vdm_core.ladder.pixels import PixelLikelihood

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
    if isinstance(card.model, ScheduledClassifierConfig):
        written = write_classifier(folder, *classifier_of_run(model))
        flavor = {"weights": CLASSIFIER_WEIGHTS, "card": CLASSIFIER_CARD}
        return Files(*_classifier_signature(written), flavor, _classifier_tags(card, written))
    generative, own = load_model(model)
    sealed = write_export(folder, generative.state_dict(), own)
    flavor = {"weights": WEIGHTS, "card": CARD}
    if sealed.model.schedule is not None:
        flavor["schedule"] = SCHEDULE
    return Files(*signature(sealed, generative), flavor, tags(sealed))


def signature(card: ModelCard, model: Generative) -> tuple[list[TensorField], list[TensorField]]:
    """What the denoiser takes, (z, γ, labels), and its answer; of a VAE what its decoder does."""
    each = (-1,)
    match model:
        case VDM() | LatentVDM():
            z = card.shape if isinstance(model, VDM) else model.latent_shape(card.shape)
            inputs = [TensorField("z", "float32", (-1, *z)), TensorField("gamma", "float32", each)]
            outputs = [TensorField("prediction", "float32", (-1, *z))]
        case VAE() | HierarchicalVAE():
            latent, image = (-1, *model.latent_shape(card.shape)), (-1, *card.shape)
            inputs = [TensorField("noise", "float32", latent)]
            outputs = [TensorField(name, "float32", image) for name in PixelLikelihood._fields]
    if card.model.conditional:
        inputs.append(TensorField("labels", "int64", each))
    return inputs, outputs


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
    common = {
        DIGEST: card.weights_sha256,
        "dataset_digest": card.dataset_digest,
        "step": str(card.step),
        "average": card.average.name,
        "kind": card.model.kind,
    }
    match card.model:
        case ModelConfig(prediction=prediction) | LatentVDMConfig(prediction=prediction):
            return common | {"schedule_sha256": card.schedule_sha256, "prediction": prediction}
        case _:
            return common
