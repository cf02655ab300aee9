"""Images from any model: the one place that knows which walk to them, and which decode at once."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

from torch import Tensor

from pipeline.model.generative import Generative
from vdm_core import VAE, VDM, HierarchicalVAE, LatentVDM, sample, sample_latent_vdm, sample_vae
from vdm_core.guidance import Guidance
from vdm_core.rng import Seed
from vdm_core.samplers import SamplerName


class Walk(NamedTuple):
    """How a VDM goes from noise to z_0, as `vdm_core.sample` has it."""

    steps: int
    sampler: SamplerName = "ancestral"
    grid: Literal["t", "gamma"] = "t"
    guidance: Guidance | Sequence[Guidance] | None = None
    clip: Literal["static", "dynamic"] | None = None


def draw_images(
    model: Generative,
    ids: Tensor,
    labels: Tensor | None,
    *,
    shape: tuple[int, int, int],
    seed: Seed,
    walk: Walk,
) -> Tensor:
    """Images (B,C,H,W) uint8 of `shape` (C,H,W) for `ids` (B,), on the model's device.

    A VAE takes its latents from their priors, without a walk. Errors as for `vdm_core.sample`;
    ValueError where latents are to be clipped, which have no range.
    """
    match model:
        case VDM():
            return sample(model, ids, labels, shape=shape, seed=seed, **walk._asdict())
        case LatentVDM():
            if walk.clip is not None:
                raise ValueError("clip keeps pixels in their range, and latents have none")
            steps, sampler, grid, guidance, _ = walk
            return sample_latent_vdm(
                model, ids, labels, shape=shape, steps=steps, sampler=sampler, grid=grid,
                guidance=guidance, seed=seed,
            )  # fmt: skip
        case VAE() | HierarchicalVAE():
            return sample_vae(model, ids, labels, shape=shape, seed=seed)
