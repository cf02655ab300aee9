"""What can be trained, and the one place that knows which configuration makes what.

All of it is a `vdm_core.family.Family`: the step, the engine and the checkpoints know no more.
"""

import torch

from pipeline.config.model import AnyModelConfig, ModelConfig, ScheduledClassifierConfig
from pipeline.config.train import TrainConfig
from pipeline.errors import InputError
from pipeline.model.build import build_vdm, check_model
from pipeline.model.frozen_schedule import FrozenSchedule, read_schedule
from pipeline.storage import open_storage
from vdm_core import VDM, NoiseAwareClassifier
from vdm_core.classification import ScheduledClassifier

Model = VDM | ScheduledClassifier


def build_family(
    config: AnyModelConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    seed: int,
    levels: int,
    given: FrozenSchedule | None = None,
) -> Model:
    """The model with weights drawn from `seed`, for images (C,H,W) = `shape`.

    `given` is what `read_given` found. Raises InputError as `build_vdm`.
    """
    match config:
        case ModelConfig():
            return build_vdm(config, shape, classes, seed, levels)
        case ScheduledClassifierConfig():
            assert given is not None
            network = build_classifier(config, shape, classes, seed)
            return ScheduledClassifier(network, given.build(), levels)


def read_given(config: TrainConfig) -> FrozenSchedule | None:
    """What the model takes from a model that is there already; None for a VDM.

    Raises:
        InputError: as `read_schedule`.
    """
    model = config.model
    if not isinstance(model, ScheduledClassifierConfig):
        return None
    return read_schedule(open_storage(config.path(model.of)), model.ema)


def check_family(
    config: AnyModelConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    levels: int,
    given: FrozenSchedule | None,
) -> int:
    """Try the model on one image without memory or compute; return its number of parameters.

    Raises:
        InputError: it cannot be built, or is not for these images.
    """
    match config:
        case ModelConfig():
            return check_model(config, shape, classes, levels)
        case ScheduledClassifierConfig():
            assert given is not None
            given.check_images(shape, classes, levels)
            with torch.device("meta"):
                network = build_classifier(config, shape, classes, seed=0)
                network(torch.empty(1, *shape), torch.empty(1))
            return sum(parameter.numel() for parameter in network.parameters())


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
