"""Configuration -> a VDM for images of a given shape."""

import torch
from torch import nn

from pipeline.config.model import (
    DiTConfig,
    DownsamplingUNetConfig,
    ModelConfig,
    NetworkConfig,
    ScheduleConfig,
    UNetConfig,
)
from pipeline.errors import InputError
from vdm_core import (
    VDM,
    AdaptiveSchedule,
    CosineSchedule,
    DiT,
    DownsamplingUNet,
    LinearSchedule,
    MonotoneSchedule,
    MultivariateSchedule,
    Schedule,
    UNet,
)


def build_vdm(
    config: ModelConfig, shape: tuple[int, int, int], classes: int | None, seed: int, levels: int
) -> VDM:
    """Return a VDM with weights drawn from `seed`.

    Args:
        shape: (C, H, W) of the images.
        classes: number of classes of the data set; None if it has no labels.

    Raises:
        InputError: a conditional model for data without labels, or a network that cannot
            be built as configured.
    """
    told = told_classes(config.conditional, classes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        try:
            network = _network(config.network, shape, told)
        except ValueError as error:
            raise InputError(f"model.network: {error}") from None
        schedule = build_schedule(config.schedule, shape)
    return VDM(
        network,
        schedule,
        levels=levels,
        steps=config.steps,
        prediction=config.prediction,
        schedule_objective=config.schedule.objective,
    )


def check_model(
    config: ModelConfig, shape: tuple[int, int, int], classes: int | None, levels: int
) -> int:
    """Try the model on one image without memory or compute; return its number of parameters.

    Raises:
        InputError: as `build_vdm`, or the network refuses the images' size.
    """
    with torch.device("meta"):
        vdm = build_vdm(config, shape, classes, seed=0, levels=levels)
        try:
            vdm.network(torch.empty(1, *shape), torch.empty(1), None)
        except ValueError as error:
            raise InputError(f"model.network for images {shape}: {error}") from None
    return sum(parameter.numel() for parameter in vdm.parameters())


def told_classes(conditional: bool, classes: int | None) -> int | None:
    """The classes that a model is told of data with so many (None: without labels).

    Raises:
        InputError: a conditional model for data without labels.
    """
    if conditional and classes is None:
        raise InputError(
            "model.conditional is true but the data set has no labels; set model.conditional=false"
        )
    return classes if conditional else None


def _network(config: NetworkConfig, shape: tuple[int, int, int], classes: int | None) -> nn.Module:
    match config:
        case UNetConfig():
            return UNet(
                channels=shape[0],
                width=config.width,
                blocks=config.blocks,
                classes=classes,
                fourier_features=config.fourier_features,
            )
        case DownsamplingUNetConfig():
            return DownsamplingUNet(
                channels=shape[0],
                width=config.width,
                multipliers=config.multipliers,
                blocks=config.blocks,
                attention_levels=config.attention_levels,
                classes=classes,
                fourier_features=config.fourier_features,
            )
        case DiTConfig():
            return DiT(
                channels=shape[0],
                width=config.width,
                depth=config.depth,
                heads=config.heads,
                patch=config.patch,
                classes=classes,
                fourier_features=config.fourier_features,
            )


def build_schedule(config: ScheduleConfig, shape: tuple[int, int, int]) -> Schedule:
    """The schedule as it is before training, for data (C,H,W) = `shape`."""
    gamma_0, gamma_1, learned = config.gamma_0, config.gamma_1, config.learned
    match config.kind:
        case "linear":
            return LinearSchedule(gamma_0, gamma_1, learned=learned)
        case "cosine":
            return CosineSchedule(gamma_0, gamma_1)
        case "monotone":
            return MonotoneSchedule(gamma_0, gamma_1, learned=learned)
        case "multivariate":
            return MultivariateSchedule(shape, gamma_0, gamma_1, learned=learned)
        case "adaptive":
            return AdaptiveSchedule(
                shape,
                gamma_0,
                gamma_1,
                learned=learned,
                latent_dim=config.latent_dim or 50,
                width=config.width or 32,
            )
