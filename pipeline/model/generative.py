"""Every model that images can be drawn from, and the one place that knows what configures which."""

from pipeline.config.family import GenerativeConfig
from pipeline.config.ladder import HierarchicalVAEConfig, LatentVDMConfig, VAEConfig
from pipeline.config.model import ModelConfig
from pipeline.model.build import build_vdm
from pipeline.model.build_ladder import build_latent_vdm, build_vae
from vdm_core import VAE, VDM, HierarchicalVAE, LatentVDM

Generative = VDM | VAE | HierarchicalVAE | LatentVDM


def build_generative(
    config: GenerativeConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    seed: int,
    levels: int,
) -> Generative:
    """The model with weights drawn from `seed`; arguments and errors as for `build_vdm`."""
    match config:
        case ModelConfig():
            return build_vdm(config, shape, classes, seed, levels)
        case VAEConfig() | HierarchicalVAEConfig():
            return build_vae(config, shape, classes, seed, levels)
        case LatentVDMConfig():
            return build_latent_vdm(config, shape, classes, seed, levels)
