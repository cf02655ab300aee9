"""The forward and backward pass of one micro-batch, as a step has them, without an engine."""

from typing import NamedTuple

import torch
from torch import Tensor

from pipeline.config.model import ModelConfig
from pipeline.model.family import Model
from pipeline.training.trained import Trained
from vdm_core.decoder import radius
from vdm_core.family import keyed_draws


class PassInputs(NamedTuple):
    """`images` (B,C,H,W) uint8, `labels` (B,) int64 or None, and the model's random arguments."""

    images: Tensor
    labels: Tensor | None
    draws: dict[str, Tensor]


def empty_inputs(model: Model, trained: Trained, micro_batch: int) -> PassInputs:
    """Of the right shapes and types, for passes that compute nothing."""
    labels = torch.empty(micro_batch, dtype=torch.int64) if trained.model.conditional else None
    return PassInputs(
        torch.empty(micro_batch, *trained.shape, dtype=torch.uint8),
        labels,
        {
            name: torch.empty(micro_batch, *draw.shape)
            for name, draw in model.draws(trained.shape).items()
        },
    )


def keyed_inputs(
    model: Model, trained: Trained, micro_batch: int, device: torch.device
) -> PassInputs:
    """Images of noise and the draws of a first step, on `device`, for passes that are timed."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(
        trained.levels, (micro_batch, *trained.shape), dtype=torch.uint8, generator=generator
    )
    indices = torch.arange(micro_batch, device=device)
    labels = indices % (trained.classes or 1) if trained.model.conditional else None
    draws = keyed_draws(model.draws(trained.shape), 0, indices, micro_batch)
    return PassInputs(images.to(device), labels, draws)


def two_passes(model: Model, inputs: PassInputs, radius: int | None, *, bfloat16: bool) -> None:
    """Forward and backward; `bfloat16`: under autocast. The gradients are left in place."""
    device = inputs.images.device.type
    with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
        terms = model(inputs.images, inputs.labels, **inputs.draws, decoder_radius=radius)
    terms.total.mean().backward()


def decoder_radius(trained: Trained) -> int | None:
    """Where training starts, see `VDM.forward`; the other models have none."""
    model = trained.model
    if not isinstance(model, ModelConfig):
        return None
    return radius(model.schedule.gamma_0 + 0.5, trained.levels)
