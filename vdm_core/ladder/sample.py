"""Images from a VAE or a hierarchical VAE: latents from their priors, pixels from p(x | z)."""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_core.labels import check_labels
from vdm_core.ladder.hierarchical import HierarchicalVAE
from vdm_core.ladder.vae import VAE
from vdm_core.rng import Purpose, Seed, normal
from vdm_core.samplers import evaluation_mode
from vdm_core.samplers.noise import Decode, decoding_uniforms


@torch.no_grad()
def sample_vae(
    model: VAE | HierarchicalVAE,
    sample_ids: Tensor,
    labels: Tensor | None = None,
    *,
    shape: tuple[int, int, int],
    seed: Seed = 0,
    decode: Decode = "argmax",
) -> Tensor:
    """Generate images: (B,C,H,W) uint8, in [0, model.levels).

    A sample depends on (seed, its id, its label) alone, up to the rounding of batched kernels.

    Args:
        model: the model; it runs in evaluation mode.
        sample_ids: (B,) int64 from 0 up, on the model's device.
        labels: (B,) int64, -1 for no class; None is -1 throughout.
        shape: (C, H, W).
        seed: of all the noise; one for all samples, or (B,) int64, one for each.
        decode: take the likeliest level of each pixel under p(x | z), or draw from it.

    Raises:
        ValueError: an argument outside the values named here, a label that the model does not have,
            or a shape that does not divide.
    """
    uniforms = decoding_uniforms(decode, seed, sample_ids, shape, model.dtype)
    if labels is not None and labels.shape != sample_ids.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and sample_ids {tuple(sample_ids.shape)}; "
            "give one label per sample"
        )
    check_labels(None if labels is None else labels.cpu(), model.classes)
    labels = None if labels is None else labels.to(sample_ids.device)
    latents = model.latent_shape(shape)
    noise = normal(seed, Purpose.SAMPLE_INIT, sample_ids, latents, dtype=model.dtype)
    with evaluation_mode(model):
        p_x = model.generate(noise, labels)
    return p_x.decode(model.levels, uniforms=uniforms)
