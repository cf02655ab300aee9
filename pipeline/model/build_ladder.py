"""Configuration -> a VAE, a hierarchical VAE or a VDM of latents, for images of a given shape."""

from typing import Any

import torch

from pipeline.config.ladder import HierarchicalVAEConfig, LatentVDMConfig, VAEConfig
from pipeline.config.model import ModelConfig
from pipeline.errors import InputError
from pipeline.model.build import build_vdm, told_classes
from vdm_core import VAE, HierarchicalVAE, LatentVDM
from vdm_core.freeze import freeze


def build_vae(
    config: VAEConfig | HierarchicalVAEConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    seed: int,
    levels: int,
) -> VAE | HierarchicalVAE:
    """A VAE with weights drawn from `seed`; arguments as for `build_vdm`.

    Raises:
        InputError: a conditional model for data without labels, or images that its widths do not
            divide.
    """
    told = told_classes(config.conditional, classes)
    common: dict[str, Any] = {
        "latent_channels": config.latent_channels,
        "widths": config.widths,
        "blocks": config.blocks,
        "classes": told,
        "levels": levels,
        "free_nats": config.free_nats,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        match config:
            case VAEConfig():
                model: VAE | HierarchicalVAE = VAE(shape[0], **common)
            case HierarchicalVAEConfig():
                model = HierarchicalVAE(
                    shape[0], config.depth, markovian=config.markovian, **common
                )
    try:
        model.latent_shape(shape)
    except ValueError as error:
        raise InputError(f"model.widths: {error}") from None
    return model


def build_latent_vdm(
    config: LatentVDMConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    seed: int,
    levels: int,
) -> LatentVDM:
    """A VDM of the latents of a VAE with weights drawn from `seed`; arguments as for `build_vdm`.

    Where the VAE is not trained too, its weights are constants, to be loaded.

    Raises:
        InputError: as `build_vae` and `build_vdm`; the VDM's images are the latents.
    """
    assert config.vae is not None  # of a trained VAE it is known by now
    vae = build_vae(config.vae, shape, classes, seed, levels)
    assert isinstance(vae, VAE)
    own = {name: getattr(config, name) for name in ModelConfig.model_fields if name != "kind"}
    vdm = build_vdm(ModelConfig(**own), vae.latent_shape(shape), classes, seed, levels)
    return LatentVDM(vae if config.joint else freeze(vae), vdm, joint=config.joint)
