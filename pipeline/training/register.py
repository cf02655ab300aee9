"""The model of a finished run, handed to MLflow as a folder that stands alone."""

import logging
import tempfile
from pathlib import Path

from pipeline.config.train import TrackingConfig
from pipeline.model.export import CARD, WEIGHTS, ModelCard, load_model, newest_model
from pipeline.model.export_folder import SCHEDULE, write_export
from pipeline.redact import one_line
from pipeline.storage import Location, open_storage
from pipeline.tracking.registry import DIGEST, TensorField, log_model

log = logging.getLogger(__name__)


def register_model(run: Location, config: TrackingConfig, uri: str, mlflow_run_id: str) -> None:
    """Hand over the newest model of `run`, unless MLflow has it.

    The run does not fail with the server: a warning tells what to do.
    """
    vdm, card = load_model(newest_model(run))
    with tempfile.TemporaryDirectory(prefix="vdm-model-") as folder:
        sealed = write_export(open_storage(folder), vdm.state_dict(), card)
        inputs, outputs = signature(sealed)
        try:
            model_id = log_model(
                uri,
                mlflow_run_id,
                f"{card.run}-step-{card.step}",
                Path(folder),
                inputs=inputs,
                outputs=outputs,
                flavor={"weights": WEIGHTS, "card": CARD, "schedule": SCHEDULE},
                tags=tags(sealed),
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


def signature(card: ModelCard) -> tuple[list[TensorField], list[TensorField]]:
    """What the denoiser takes, (z, γ, labels), and its answer."""
    image, each = (-1, *card.shape), (-1,)
    inputs = [TensorField("z", "float32", image), TensorField("gamma", "float32", each)]
    if card.model.conditional:
        inputs.append(TensorField("labels", "int64", each))
    return inputs, [TensorField("prediction", "float32", image)]


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
