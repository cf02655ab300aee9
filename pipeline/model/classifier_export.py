"""The one form in which a noise-aware classifier leaves its training, for guidance by its gradient.

    classifier.safetensors   float32 weights
    classifier.json          how to build the network around them, and whose noise it was trained on

A classifier p(y | z, γ) belongs to the noise schedule that it was trained on: the card names it by
its digest, and it guides models of that schedule only.
"""

import hashlib
from typing import Literal

from pydantic import Field, PositiveInt, ValidationError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from pipeline.config.base import ConfigModel
from pipeline.errors import InputError
from pipeline.storage import Location
from vdm_core.networks.classifier import NoiseAwareClassifier

CLASSIFIER_WEIGHTS, CLASSIFIER_CARD = "classifier.safetensors", "classifier.json"


class ClassifierConfig(ConfigModel):
    """The network's settings, as `NoiseAwareClassifier` has them."""

    width: int = Field(32, gt=0)
    multipliers: tuple[PositiveInt, ...] = Field((1, 2, 2), min_length=1)
    blocks: int = Field(1, gt=0)


class ClassifierCard(ConfigModel):
    """Everything but the weights."""

    format: Literal[1] = 1
    network: ClassifierConfig
    shape: tuple[int, int, int]
    classes: int = Field(ge=2)
    class_names: tuple[str, ...]
    schedule_sha256: str = Field(description="`schedule_digest` of the schedule it was trained on.")
    weights_sha256: str = ""


def classifier_bytes(weights: dict[str, Tensor], card: ClassifierCard) -> dict[str, bytes]:
    """Contents by file name; the card gets the digest of the weights."""
    blob: bytes = save_tensors({name: value.contiguous() for name, value in weights.items()})
    sealed = card.model_copy(update={"weights_sha256": hashlib.sha256(blob).hexdigest()})
    return {
        CLASSIFIER_WEIGHTS: blob,
        CLASSIFIER_CARD: sealed.model_dump_json(indent=2).encode(),
    }


def load_classifier(folder: Location) -> tuple[NoiseAwareClassifier, ClassifierCard]:
    """The classifier in evaluation mode, on the CPU, and its card.

    Raises:
        InputError: none is there, its card is of another form, or the weights do not match their
            digest or the network.
    """
    card = load_classifier_card(folder)
    weights = folder / CLASSIFIER_WEIGHTS
    if weights.size() is None:
        raise InputError(f"{weights} is missing beside its {CLASSIFIER_CARD}; restore it")
    blob = weights.read_bytes()
    if hashlib.sha256(blob).hexdigest() != card.weights_sha256:
        raise InputError(
            f"{weights} does not match the digest in {CLASSIFIER_CARD}: it is damaged or was "
            "changed; train the classifier again or restore it"
        )
    network = card.network
    try:
        classifier = NoiseAwareClassifier(
            card.shape[0], card.classes, network.width, network.multipliers, network.blocks
        )
        classifier.load_state_dict(load_tensors(blob))
    except (ValueError, RuntimeError) as error:
        raise InputError(f"{weights} does not fit its own card: {error}") from None
    return classifier.eval(), card


def load_classifier_card(folder: Location) -> ClassifierCard:
    """Read and validate `classifier.json`.

    Raises:
        InputError: it is missing or of a form that this version cannot read.
    """
    card = folder / CLASSIFIER_CARD
    if card.size() is None:
        raise InputError(f"there is no {CLASSIFIER_CARD} in {folder}: give a classifier's folder")
    try:
        return ClassifierCard.model_validate_json(card.read_bytes())
    except ValidationError as error:
        raise InputError(f"{card} is not a classifier card of this version: {error}") from None
