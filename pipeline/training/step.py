"""One optimizer step. Read this file first.

A global batch is a list of micro-batches per worker. Every random draw belongs to a global sample
index, so the step is the same mathematics on one worker, on eight, and after a restart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from pipeline.training.engine import Engine
from pipeline.training.interval import IntervalMeter
from vdm_core.records import Batch
from vdm_core.rng import Purpose, normal, stratified_times, uniform


@dataclass(frozen=True)
class StepSettings:
    """What a step needs besides the engine and the data.

    `decoder_radius`: as in `VDM.forward`, how many levels beside the nearest one are looked at.
    `latent_dim`: size of an adaptive schedule's latent; None for other schedules.
    """

    seed: int
    global_batch: int
    conditional: bool
    drop_label: float
    decoder_radius: int
    latent_dim: int | None = None


def train_step(
    engine: Engine, batches: Sequence[Batch], settings: StepSettings, meter: IntervalMeter
) -> list[dict[str, Tensor]]:
    """Forward, backward and update on one global batch; nothing of ours waits for the device.

    The loss is the mean over all examples in bits/dim, in which an invalid one counts as 0.
    An update whose gradient is not finite is left out.

    Args:
        batches: this worker's micro-batches of the step, in order.
        meter: receives the ELBO's terms of every valid example, in nats, and the time it took.

    Returns the ELBO's terms (B,) of each micro-batch, in nats, on the device, without gradient.
    """
    answers = []
    for batch in batches:
        images = batch.images.to(engine.device, non_blocking=True).contiguous()
        valid = batch.valid.to(engine.device, non_blocking=True)
        labels, draws = training_draws(batch, settings, engine.device)

        terms = engine(images, labels, **draws, decoder_radius=settings.decoder_radius)
        meter.mark("forward")

        bits = terms.bits_per_dim(math.prod(images.shape[1:]))
        engine.backward(torch.where(valid, bits, 0.0).mean())
        meter.mark("backward")

        engine.step()
        meter.add(terms, draws["times"], valid)
        meter.mark("optimizer")
        answers.append({name: term.detach() for name, term in terms._asdict().items()})
    return answers


def training_draws(
    batch: Batch, settings: StepSettings, device: torch.device
) -> tuple[Tensor | None, dict[str, Tensor]]:
    """Labels with the null condition drawn in, and the random arguments of `VDM.forward`.

    An unconditional model gets no labels, whatever the data has.
    """
    indices = batch.indices.to(device, non_blocking=True)
    shape = tuple(batch.images.shape[1:])
    labels = batch.labels if settings.conditional else None
    if labels is not None:
        labels = labels.to(device, non_blocking=True)
        dropped = uniform(settings.seed, Purpose.DROP_LABEL, indices) < settings.drop_label
        labels = torch.where(dropped, -1, labels)
    draws = {
        "times": stratified_times(settings.seed, indices, settings.global_batch),
        "noise": normal(settings.seed, Purpose.NOISE, indices, shape),
        "noise_0": normal(settings.seed, Purpose.NOISE_0, indices, shape),
    }
    if settings.latent_dim is not None:
        size = (settings.latent_dim,)
        draws["noise_latent"] = normal(settings.seed, Purpose.LATENT, indices, size)
    return labels, draws
