"""What can be trained, and the one place that knows which configuration makes what.

All of it is a `vdm_core.family.Family`: the step, the engine and the checkpoints know no more.
"""

from typing import TypeAlias

import torch

from pipeline.config.family import AnyModelConfig
from pipeline.config.ladder import LatentVDMConfig
from pipeline.config.model import ScheduledClassifierConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import InputError
from pipeline.model.generative import Generative, build_generative
from pipeline.model.given import FrozenSchedule, FrozenVAE, read_schedule, read_vae
from pipeline.storage import open_storage
from vdm_core import VAE, VDM, HierarchicalVAE, LatentVDM, NoiseAwareClassifier
from vdm_core.classification import ScheduledClassifier

Model: TypeAlias = Generative | ScheduledClassifier
Given: TypeAlias = FrozenSchedule | FrozenVAE | None


def build_family(
    config: AnyModelConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    seed: int,
    levels: int,
    given: Given = None,
) -> Model:
    """The model with weights drawn from `seed`, for images (C,H,W) = `shape`.

    `given` is what `read_given` found. Raises InputError as `build_vdm`.
    """
    config = resolved(config, given)
    if isinstance(config, ScheduledClassifierConfig):
        assert isinstance(given, FrozenSchedule)
        network = build_classifier(config, shape, classes, seed)
        return ScheduledClassifier(network, given.build(), levels)
    model = build_generative(config, shape, classes, seed, levels)
    if isinstance(given, FrozenVAE) and isinstance(model, LatentVDM):
        model.vae.load_state_dict(given.weights)
    return model


def read_given(config: TrainConfig) -> Given:
    """What the model takes from a model that is there already; None for one that takes nothing.

    Raises:
        InputError: as `read_schedule` and `read_vae`.
    """
    match config.model:
        case ScheduledClassifierConfig(of=str(place), ema=ema):
            return read_schedule(open_storage(config.path(place)), ema)
        case LatentVDMConfig(of=str(place), ema=ema):
            return read_vae(open_storage(config.path(place)), ema)
        case _:
            return None


def resolved(config: AnyModelConfig, given: Given) -> AnyModelConfig:
    """The configuration with what `given` says filled in, so that it stands alone.

    Raises:
        InputError: it says something else.
    """
    if not (isinstance(config, LatentVDMConfig) and isinstance(given, FrozenVAE)):
        return config
    if config.vae not in (None, given.config):
        raise InputError(
            f"model.vae is not what model.of={given.place} says of its VAE; leave it out"
        )
    return config.model_copy(update={"vae": given.config})


def check_family(
    config: AnyModelConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    levels: int,
    given: Given,
) -> int:
    """Try the model on one image without memory or compute; return its number of parameters.

    Raises:
        InputError: it cannot be built, or is not for these images.
    """
    if given is not None:
        given.check_images(shape, classes, levels)
    config = resolved(config, given)
    with torch.device("meta"):
        if isinstance(config, ScheduledClassifierConfig):
            model: Generative | NoiseAwareClassifier = build_classifier(config, shape, classes, 0)
        else:
            model = build_generative(config, shape, classes, 0, levels)
        try:
            _try_out(model, shape)
        except ValueError as error:
            raise InputError(f"model.network for images {shape}: {error}") from None
    return sum(parameter.numel() for parameter in model.parameters())


def _try_out(model: Generative | NoiseAwareClassifier, shape: tuple[int, int, int]) -> None:
    """Call the network that is the model's choice, on the meta device."""
    match model:
        case NoiseAwareClassifier():
            model(torch.empty(1, *shape), torch.empty(1))
        case VDM():
            model.network(torch.empty(1, *shape), torch.empty(1))
        case LatentVDM():
            model.vdm.network(torch.empty(1, *model.latent_shape(shape)), torch.empty(1))
        case VAE() | HierarchicalVAE():
            model.generate(torch.empty(1, *model.latent_shape(shape)))


def build_classifier(
    config: ScheduledClassifierConfig, shape: tuple[int, int, int], classes: int | None, seed: int
) -> NoiseAwareClassifier:
    """A new classifier with weights drawn from `seed`.

    Raises:
        InputError: the data has no labels, or the network cannot be built as configured.
    """
    if classes is None:
        raise InputError("the data set has no labels, and a classifier learns them")
    own = config.network
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            return NoiseAwareClassifier(shape[0], classes, own.width, own.multipliers, own.blocks)
        except ValueError as error:
            raise InputError(f"model.network: {error}") from None
