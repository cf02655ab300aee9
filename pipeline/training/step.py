"""One optimizer step. Read this file first.

A global batch is a list of micro-batches per worker. Every random draw belongs to a global sample
index, so the step is the same mathematics on one worker, on eight, and after a restart.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.engine import Engine
from pipeline.training.interval import IntervalMeter
from vdm_core.family import Draw, keyed_draws
from vdm_core.records import Batch
from vdm_core.rng import Purpose, uniform


@dataclass(frozen=True)
class StepSettings:
    """What a step needs besides the engine and the data.

    `dims`: what the loss is in bits per: C*H*W of the images, or 1 for a classifier's label.
    `learns_labels`: an example without a label counts for nothing.
    `decoder_radius`: as in `VDM.forward`, how many levels beside the nearest one are looked at;
    None for a model that looks at all of them.
    """

    seed: int
    global_batch: int
    dims: int
    conditional: bool
    drop_label: float
    decoder_radius: int | None
    learns_labels: bool = False


def train_step(
    engine: Engine, batches: Sequence[Batch], settings: StepSettings, meter: IntervalMeter
) -> list[dict[str, Tensor]]:
    """Forward, backward and update on one global batch; nothing of ours waits for the device.

    The loss is the mean over all examples in bits/dim, in which an invalid one counts as 0.
    An update whose gradient is not finite is left out.

    Args:
        batches: this worker's micro-batches of the step, in order.
        meter: receives the terms of every valid example, in nats, and the time it took.

    Returns the terms (B,) of each micro-batch, in nats, on the device, without gradient.
    """
    answers = []
    for batch in batches:
        images = batch.images.to(engine.device, non_blocking=True).contiguous()
        _, channels, height, width = images.shape
        needs = engine.model.draws((channels, height, width))
        labels, draws = training_draws(needs, batch, settings, engine.device)
        valid = counted(batch, labels, settings, engine.device)

        terms = engine(images, labels, **draws, decoder_radius=settings.decoder_radius)
        meter.mark("forward")

        bits = terms.bits_per_dim(settings.dims)
        engine.backward(torch.where(valid, bits, 0.0).mean())
        meter.mark("backward")

        engine.step()
        meter.add(terms, draws.get("times"), valid)
        meter.mark("optimizer")
        answers.append({name: term.detach() for name, term in terms.named().items()})
    return answers


def training_draws(
    needs: Mapping[str, Draw], batch: Batch, settings: StepSettings, device: torch.device
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Labels with the null condition drawn in, and the random arguments that the model `needs`.

    An unconditional model gets no labels, whatever the data has.
    """
    indices = batch.indices.to(device, non_blocking=True)
    labels = batch.labels if settings.conditional else None
    if labels is not None:
        labels = labels.to(device, non_blocking=True)
        dropped = uniform(settings.seed, Purpose.DROP_LABEL, indices) < settings.drop_label
        labels = torch.where(dropped, -1, labels)
    return labels, keyed_draws(needs, settings.seed, indices, settings.global_batch)


def counted(
    batch: Batch, labels: Tensor | None, settings: StepSettings, device: torch.device
) -> Tensor:
    """Which examples count, (B,) bool: not a bad record, nor one without the label to learn."""
    valid = batch.valid.to(device, non_blocking=True)
    return valid & (labels >= 0) if settings.learns_labels and labels is not None else valid
