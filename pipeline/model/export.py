"""Models for sampling and evaluation: from a run's checkpoint, or from the form that leaves a run.

    model.safetensors   float32 EMA weights, a schedule's included
    model.json          how to build the model around them, and where they come from

A checkpoint has the same card, and its weights in the fragments that the ranks wrote. Both are
safetensors and JSON: no pickle crosses a trust boundary.
"""

import hashlib
import math
from typing import Literal

import torch
from pydantic import Field, PositiveInt, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from pipeline.checkpoint.record import COMMIT, newest_first
from pipeline.config.average import AverageConfig
from pipeline.config.base import ConfigModel, RunName
from pipeline.config.family import AnyModelConfig, GenerativeConfig
from pipeline.config.model import ModelConfig, ScheduledClassifierConfig
from pipeline.errors import InputError
from pipeline.metrics import Scalar, flatten
from pipeline.model.average_of_run import find_average
from pipeline.model.average_record import AverageRecord
from pipeline.model.generative import Generative, build_generative
from pipeline.model.schedule_record import schedule_digest
from pipeline.storage import Location
from vdm_core import VDM

WEIGHTS, CARD = "model.safetensors", "model.json"


class RunCard(ConfigModel):
    """Everything but the weights, of whatever a run trains.

    `weights_sha256` is the digest of `model.safetensors`, or in a checkpoint of the digests of the
    files that hold the weights. There `schedule_sha256` is empty, and `load_model` fills it in;
    for a model without a noise schedule it stays so.
    """

    format: Literal[1] = 1
    model: AnyModelConfig
    shape: tuple[PositiveInt, PositiveInt, PositiveInt]
    levels: int = Field(ge=2, le=256)
    classes: PositiveInt | None
    class_names: tuple[str, ...]
    step: int
    run: RunName
    mlflow_run_id: str | None
    dataset_digest: str
    average: AverageRecord = AverageRecord(decay=0.0)
    weights_sha256: str = ""
    schedule_sha256: str = ""

    @property
    def identity(self) -> dict[str, Scalar]:
        """What tells one trained model from another."""
        return {
            "run": self.run,
            "step": self.step,
            "average": self.average.label,
            "weights_sha256": self.weights_sha256,
            **flatten(self.model.model_dump(mode="json", exclude={"kind"}), "model."),
        }

    @property
    def dims(self) -> int:
        """The dimensions that bits/dim counts: C*H*W, or 1 where it is labels that are learned."""
        return 1 if isinstance(self.model, ScheduledClassifierConfig) else math.prod(self.shape)


class ModelCard(RunCard):
    """That of a model that images can be drawn from."""

    model: GenerativeConfig


class VDMCard(ModelCard):
    """That of a VDM."""

    model: ModelConfig


def export_bytes(weights: dict[str, Tensor], card: ModelCard) -> dict[str, bytes]:
    """Contents by file name; the card gets the digests of the weights and of the schedule."""
    blob: bytes = save_tensors({name: value.contiguous() for name, value in weights.items()})
    digests = {
        "weights_sha256": hashlib.sha256(blob).hexdigest(),
        "schedule_sha256": _schedule_sha256(card, weights),
    }
    sealed = card.model_copy(update=digests)
    return {WEIGHTS: blob, CARD: sealed.model_dump_json(indent=2).encode()}


def _schedule_sha256(card: ModelCard, weights: dict[str, Tensor]) -> str:
    schedule = card.model.schedule
    return "" if schedule is None else schedule_digest(schedule.kind, weights)


def newest_model(folder: Location) -> Location:
    """The folder of the model to load: `folder` itself, or the newest checkpoint of a run.

    Raises:
        InputError: neither a model nor a run with a complete checkpoint is there.
    """
    if (folder / CARD).size() is not None:
        return folder
    found = next(newest_first(folder), None)
    if found is None:
        raise InputError(
            f"there is no model in {folder}: give the folder of a training run with at least one "
            f"complete checkpoint, or a folder with {CARD}"
        )
    return folder / found[0]


def load_model(folder: Location, ema: AverageConfig | None = None) -> tuple[Generative, ModelCard]:
    """Return the model in evaluation mode, on the CPU, and its card.

    Args:
        folder: an exported model, or one checkpoint of a run.
        ema: which average of a checkpoint, as `find_average`; None is the first that the run keeps.

    Raises:
        InputError: no model or no such average here, a card of another format, or weights that do
            not match their digest or the network.
    """
    card = load_card(folder, ema)
    if (folder / COMMIT).size() is not None:
        weights = find_average(folder, card.step, ema or card.average).read()
        digest = _schedule_sha256(card, weights)
        card = card.model_copy(update={"schedule_sha256": digest})
        return restored(weights, card, folder), card
    if (folder / WEIGHTS).size() is None:
        raise InputError(f"{folder}/{WEIGHTS} is missing beside its {CARD}; use another checkpoint")
    blob = (folder / WEIGHTS).read_bytes()
    if hashlib.sha256(blob).hexdigest() != card.weights_sha256:
        raise InputError(
            f"{folder}/{WEIGHTS} does not match the digest in {CARD}: it is damaged or was "
            "changed; use another checkpoint"
        )
    return restored(read_tensors(blob, folder / WEIGHTS), card, folder), card


def read_tensors(blob: bytes, place: Location) -> dict[str, Tensor]:
    """The tensors of a safetensors file. Raises InputError, naming `place`, if it is none."""
    try:
        return load_tensors(blob)
    except SafetensorError as error:
        raise InputError(f"{place} is no safetensors file: {error}; restore it") from None


def load_vdm(folder: Location, ema: AverageConfig | None = None) -> tuple[VDM, VDMCard]:
    """The same where it is a VDM.

    Raises:
        InputError: as `load_model`, or something else was trained.
    """
    model, card = load_model(folder, ema)
    if not isinstance(model, VDM):
        raise InputError(f"{folder} holds a {card.model.kind}, and a VDM is needed here")
    return model, VDMCard(**dict(card))


def restored(weights: dict[str, Tensor], card: ModelCard, place: Location | str) -> Generative:
    """The model of `card` around `weights`, in evaluation mode, on the CPU.

    Raises:
        InputError: they do not belong together, or are not finite; names `place`.
    """
    with torch.device("meta"):  # a card may ask for more than there is memory
        wanted = _build(card).state_dict()
    wrong = [
        name
        for name in sorted(wanted.keys() | weights.keys())
        if name not in wanted or name not in weights or wanted[name].shape != weights[name].shape
    ]
    if wrong:
        raise InputError(
            f"{place}/{WEIGHTS} does not fit its own card: {len(wrong)} tensors are missing, "
            f"unknown or of another shape ({', '.join(wrong[:5])}); restore it"
        )
    if lost := [name for name, value in weights.items() if not value.isfinite().all()]:
        raise InputError(
            f"{place}/{WEIGHTS} is not finite in {', '.join(lost[:5])}; take another checkpoint"
        )
    model = _build(card)
    model.load_state_dict(weights)
    return model.eval()


def _build(card: ModelCard) -> Generative:
    return build_generative(card.model, card.shape, card.classes, seed=0, levels=card.levels)


def load_card(folder: Location, ema: AverageConfig | None = None) -> ModelCard:
    """The card of the model that `load_model` loads; reads no weights.

    Raises:
        InputError: as `load_run_card`, or what was trained draws no images.
    """
    card = load_run_card(folder, ema)
    if isinstance(card.model, ScheduledClassifierConfig):
        raise InputError(
            f"{folder} holds a {card.model.kind}, and a model that images can be drawn from is "
            "needed here"
        )
    return model_card(card)


def model_card(card: RunCard) -> ModelCard:
    """The same card, of a model that images can be drawn from; ValidationError if it is not."""
    return ModelCard(**dict(card))


def load_run_card(folder: Location, ema: AverageConfig | None = None) -> RunCard:
    """The card in `folder`, an export or a checkpoint, with its average `ema` (None: the first).

    Raises:
        InputError: it is missing or of a form that this version cannot read, or there is no such
            average.
    """
    if (folder / CARD).size() is None:
        raise InputError(
            f"there is no {CARD} in {folder}: give a checkpoint folder of a training run"
        )
    try:
        card = RunCard.model_validate_json((folder / CARD).read_bytes())
    except ValidationError as error:
        raise InputError(f"{folder}/{CARD} is not a model card of this version: {error}") from None
    if ema is None or ema.name == card.average.name:
        return card
    if (folder / COMMIT).size() is None:
        raise InputError(
            f"{ema.name} was asked for, and {folder} is an export of {card.average.name}; give the "
            "folder of its run"
        )
    return card.model_copy(update={"average": find_average(folder, card.step, ema).record})
