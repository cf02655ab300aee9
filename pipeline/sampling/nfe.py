"""NFE: how many images the network evaluates to make one sample, counted and not derived."""

import torch
from torch import Tensor, nn

from pipeline.config.sample import SampleConfig
from pipeline.model.export import ModelCard
from pipeline.model.generative import Generative
from pipeline.sampling.guide import make_guidance
from vdm_core import VAE, VDM, HierarchicalVAE, LatentVDM, sample
from vdm_core.denoiser import epsilon_denoiser


class _Counting(nn.Module):
    """A network that answers 0 and counts the images it is shown."""

    def __init__(self, classes: int | None) -> None:
        super().__init__()
        self.classes, self.images = classes, 0

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        self.images += len(z)
        return torch.zeros_like(z)


def function_evaluations(
    config: SampleConfig, model: Generative, card: ModelCard, scale: float
) -> int:
    """Network evaluations per sample at guidance scale `scale`, of a weaker model too.

    It walks once as the job will, along the model's own γ, with a network that costs nothing. What
    a classifier or the decoder of latents computes is not counted. A VAE's one pass is 1.
    """
    match model:
        case VDM():
            return _evaluations_of_walk(config, model, card, card.shape, scale)
        case LatentVDM():
            latent = model.latent_shape(card.shape)
            return _evaluations_of_walk(config, model.vdm, card, latent, scale)
        case VAE() | HierarchicalVAE():
            return 1


def _evaluations_of_walk(
    config: SampleConfig, vdm: VDM, card: ModelCard, shape: tuple[int, int, int], scale: float
) -> int:
    conditional = card.model.conditional and card.classes is not None
    network = _Counting(card.classes if conditional else None)
    counted = VDM(network, vdm.schedule, levels=card.levels).eval()
    guidance = None
    if config.guidance != "classifier":
        guidance = make_guidance(config, scale, epsilon_denoiser(counted))
    sample(
        counted,
        torch.zeros(1, dtype=torch.int64),
        torch.zeros(1, dtype=torch.int64) if conditional else None,
        shape=shape,
        steps=config.steps,
        sampler=config.sampler,
        grid=config.grid,
        guidance=guidance,
        clip=config.clip,
    )
    return network.images
