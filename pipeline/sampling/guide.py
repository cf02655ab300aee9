"""Guidance as configured: its second network, loaded and checked, and the functions it makes.

classifier_free needs the model alone, autoguidance a weaker model of the same images, classifier a
noise-aware classifier of the same noise schedule (`pipeline.model.classifier_export`).
"""

from dataclasses import dataclass
from typing import assert_never

from torch import Tensor

from pipeline.config.sample import SampleConfig
from pipeline.errors import InputError
from pipeline.model.classifier_export import load_classifier
from pipeline.model.export import ModelCard, load_vdm, newest_model
from pipeline.storage import open_storage
from vdm_core import VDM, ClassifierFree
from vdm_core.denoiser import Denoiser
from vdm_core.guidance import Autoguidance, Classifier, Guidance
from vdm_core.networks.classifier import NoiseAwareClassifier


@dataclass(frozen=True)
class Guide:
    """The second network of a guidance, and the digest of its weights."""

    network: VDM | NoiseAwareClassifier
    weights_sha256: str
    classes: int | None


def load_guide(config: SampleConfig, card: ModelCard) -> Guide | None:
    """The guide of `config` for the model of `card`, on the CPU; None where guidance needs none.

    Raises:
        InputError: it is missing, damaged, or does not belong to the model: other images or
            classes, and for a classifier another noise schedule.
    """
    if config.guide is None:
        return None
    place = open_storage(config.path(config.guide))
    if config.guidance == "autoguidance":
        weaker, about = load_vdm(newest_model(place))
        _check_same(config, "shape", about.shape, card.shape)
        if about.model.conditional != card.model.conditional or about.classes != card.classes:
            raise InputError(
                f"guide {config.guide} and model {config.model} do not know the same classes; "
                "give a weaker version of the same model"
            )
        return Guide(weaker, about.weights_sha256, about.classes)
    classifier, of = load_classifier(place)
    _check_same(config, "shape", of.shape, card.shape)
    if card.model.conditional and of.classes != card.classes:
        _check_same(config, "classes", of.classes, card.classes)
    _check_same(config, "schedule_sha256", of.schedule_sha256, card.schedule_sha256)
    return Guide(classifier, of.weights_sha256, of.classes)


def _check_same(config: SampleConfig, name: str, guide: object, model: object) -> None:
    if guide != model:
        raise InputError(
            f"guide {config.guide} does not belong to model {config.model}: {name} is {guide} "
            f"there and {model} here; give a guide that was made for this model"
        )


def make_guidance(
    config: SampleConfig,
    scale: float | Tensor,
    network: Denoiser | VDM | NoiseAwareClassifier | None,
) -> Guidance | None:
    """The guidance at `scale`, with the guide's network; None where it would change nothing."""
    if not isinstance(scale, Tensor) and scale == config.unguided_scale:
        return None
    interval = config.gamma_interval
    match config.guidance:
        case "classifier_free":
            return ClassifierFree(scale, interval)
        case "autoguidance":
            assert network is not None
            assert not isinstance(network, NoiseAwareClassifier)
            return Autoguidance(network, scale, interval)
        case "classifier":
            assert isinstance(network, NoiseAwareClassifier)
            return Classifier(network, scale, interval)
        case _:
            assert_never(config.guidance)
