"""The one form in which a noise-aware classifier leaves its training, for guidance by its gradient.

    classifier.safetensors   float32 weights
    classifier.json          how to build the network around them, and whose noise it was trained on

A classifier p(y | z, γ) belongs to the noise schedule that it was trained on: the card names it by
its digest, and it guides models of that schedule only. A run that trains one (`jobs.train` with
`model.kind: classifier`) has the same in its checkpoints.
"""

import hashlib
from typing import Literal

from pydantic import Field, ValidationError
from safetensors.torch import save as save_tensors
from torch import Tensor

from pipeline.checkpoint.record import committed
from pipeline.config.average import AverageConfig
from pipeline.config.base import ConfigModel
from pipeline.config.model import ClassifierConfig, ScheduledClassifierConfig
from pipeline.errors import InputError
from pipeline.model.average_of_run import find_average
from pipeline.model.export import CARD, RunCard, load_run_card, newest_model, read_tensors
from pipeline.storage import Location, is_temporary
from vdm_core.networks.classifier import NoiseAwareClassifier

CLASSIFIER_WEIGHTS, CLASSIFIER_CARD = "classifier.safetensors", "classifier.json"
_NETWORK = "network."


class ClassifierCard(ConfigModel):
    """Everything but the weights. `run`, `step` and `average` are of a run of `jobs.train`."""

    format: Literal[1] = 1
    network: ClassifierConfig
    shape: tuple[int, int, int]
    classes: int = Field(ge=2)
    class_names: tuple[str, ...]
    schedule_sha256: str = Field(description="`schedule_digest` of the schedule it was trained on.")
    weights_sha256: str = ""
    run: str | None = None
    step: int | None = None
    average: str | None = None


def classifier_bytes(weights: dict[str, Tensor], card: ClassifierCard) -> dict[str, bytes]:
    """Contents by file name; the card gets the digest of the weights."""
    blob: bytes = save_tensors({name: value.contiguous() for name, value in weights.items()})
    sealed = card.model_copy(update={"weights_sha256": hashlib.sha256(blob).hexdigest()})
    return {
        CLASSIFIER_WEIGHTS: blob,
        CLASSIFIER_CARD: sealed.model_dump_json(indent=2).encode(),
    }


def is_written(output: Location, card: RunCard) -> bool:
    """Whether the classifier of a run's `card` is in `output` already.

    Raises:
        InputError: another classifier or other files are there.
    """
    if (output / CLASSIFIER_CARD).size() is not None:
        there = load_classifier_card(output)
        if (there.run, there.step, there.average) == (card.run, card.step, card.average.label):
            return True
        raise InputError(
            f"{output} holds another classifier, {there.run} after step {there.step}, "
            f"{there.average}; give another output"
        )
    names = [n for n in output.files() if n != CLASSIFIER_WEIGHTS and not is_temporary(n)]
    if other := [*names, *output.folders()]:
        raise InputError(f"{output} holds other things ({other[0]}); give another output")
    return False


def write_classifier(
    output: Location, weights: dict[str, Tensor], card: ClassifierCard
) -> ClassifierCard:
    """Write both files, the card last: it makes the folder a classifier's. Return it, sealed."""
    files = classifier_bytes(weights, card)
    for name, data in files.items():
        (output / name).write_bytes(data)
    return ClassifierCard.model_validate_json(files[CLASSIFIER_CARD])


def load_classifier(folder: Location) -> tuple[NoiseAwareClassifier, ClassifierCard]:
    """The classifier in evaluation mode, on the CPU, and its card.

    `folder`: of a classifier, of a run that trains one (its newest checkpoint), or a checkpoint's.

    Raises:
        InputError: none is there, its card is of another form, or the weights do not match their
            digest or the network.
    """
    weights, card = read_classifier(folder)
    network = card.network
    try:
        classifier = NoiseAwareClassifier(
            card.shape[0], card.classes, network.width, network.multipliers, network.blocks
        )
        classifier.load_state_dict(weights)
    except (ValueError, RuntimeError) as error:
        raise InputError(f"the classifier in {folder} does not fit its own card: {error}") from None
    return classifier.eval(), card


def read_classifier(folder: Location) -> tuple[dict[str, Tensor], ClassifierCard]:
    """The network's state dict and the card, from where `load_classifier` looks.

    Raises:
        InputError: none is there, its card is of another form, or it is damaged.
    """
    if (folder / CLASSIFIER_CARD).size() is None and ((folder / CARD).size() or committed(folder)):
        return classifier_of_run(newest_model(folder))
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
    return read_tensors(blob, weights), card


def classifier_of_run(
    checkpoint: Location, ema: AverageConfig | None = None
) -> tuple[dict[str, Tensor], ClassifierCard]:
    """The same from a checkpoint of a run, and from its average `ema` (None: the first).

    Raises:
        InputError: the run trains something else, keeps no such average, or is damaged.
    """
    card = load_run_card(checkpoint, ema)
    if not isinstance(card.model, ScheduledClassifierConfig) or card.classes is None:
        raise InputError(f"{checkpoint} holds a {card.model.kind}, and a classifier is needed here")
    whole = find_average(checkpoint, card.step, ema or card.average).read()
    weights = {n.removeprefix(_NETWORK): v for n, v in whole.items() if n.startswith(_NETWORK)}
    return weights, ClassifierCard(
        network=card.model.network,
        shape=card.shape,
        classes=card.classes,
        class_names=card.class_names,
        schedule_sha256=card.schedule_sha256,
        weights_sha256=card.weights_sha256,
        run=card.run,
        step=card.step,
        average=card.average.label,
    )


def load_classifier_card(folder: Location) -> ClassifierCard:
    """Read and validate `classifier.json`.

    Raises:
        InputError: it is missing or of a form that this version cannot read.
    """
    card = folder / CLASSIFIER_CARD
    if card.size() is None:
        raise InputError(
            f"there is no {CLASSIFIER_CARD} in {folder}: give the folder of a classifier, or of a "
            "run that trained one (jobs.features makes one whose features compare images)"
        )
    try:
        return ClassifierCard.model_validate_json(card.read_bytes())
    except ValidationError as error:
        raise InputError(f"{card} is not a classifier card of this version: {error}") from None
