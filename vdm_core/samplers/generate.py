"""From sample ids to images: z_1, a walk of a sampler along a grid of gammas, and pixels.

All noise of a sample is a function of the seed and the sample's own id.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal, get_args

import torch
from torch import Tensor, nn

from vdm_core.decoder import decode as decode_levels
from vdm_core.denoiser import Denoiser, clip_data, epsilon_denoiser, threshold_data
from vdm_core.guidance import ClassifierFree, Guidance
from vdm_core.labels import StatesClasses, check_labels
from vdm_core.rng import Purpose, Seed, normal
from vdm_core.samplers.contract import Sampler
from vdm_core.samplers.first_order import ancestral, ddim
from vdm_core.samplers.grid import Grid, map_grid, step_grid
from vdm_core.samplers.langevin import pc
from vdm_core.samplers.noise import Decode, StepNoise, decoding_uniforms
from vdm_core.samplers.second_order import dpmpp_2m, heun
from vdm_core.vdm import VDM

SamplerName = Literal["ancestral", "ddim", "dpmpp_2m", "heun", "pc"]
"""The samplers that `sample` knows by name."""


@torch.no_grad()
def sample(
    vdm: VDM,
    sample_ids: Tensor,
    labels: Tensor | None = None,
    *,
    shape: tuple[int, int, int],
    steps: int = 250,
    sampler: SamplerName | Sampler = "ancestral",
    grid: Grid = "t",
    guidance: Guidance | Sequence[Guidance] | None = None,
    seed: Seed = 0,
    decode: Decode = "argmax",
    clip: Literal["static", "dynamic"] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Generate images: (B,C,H,W) uint8, in [0, vdm.levels).

    A sample depends on (seed, its id, its label) alone, whatever else is in the batch, up to the
    rounding of batched kernels. The VDM runs in evaluation mode. Where its schedule has a gamma for
    each pixel, the samplers are ancestral, ddim and pc, the grid is "t", guidance has no interval,
    and an adaptive schedule's latent is drawn from its prior N(0, I).

    Args:
        vdm: the model.
        sample_ids: (B,) int64 from 0 up, on the model's device.
        labels: (B,) int64, -1 for no class; None is -1 throughout.
        shape: (C, H, W).
        steps: T. Heun's method calls the network 2 T times, and so does pc.
        sampler: a name, or a sampler.
        grid: steps uniform in t or in gamma, or T + 1 falling gammas, e.g. of `profile_grid`.
        guidance: one, e.g. `ClassifierFree(2.0)`, or several, the first applied first.
        seed: of all the noise; one for all samples, or (B,) int64, one for each.
        decode: take the likeliest level of each pixel under p(x | z_0), or draw from it.
        clip: keep x_hat in [-1, 1] at each step, by clipping it or by dynamic thresholding. The
            paper does neither; it helps where guidance is strong or steps are few.
        progress: called with the number of steps done after each.

    Raises:
        ValueError: an argument outside the values named here, a label that the network does not
            have, gammas that do not fall, or guidance without what it needs.
    """
    uniforms = decoding_uniforms(decode, seed, sample_ids, shape, vdm.dtype)
    z_0, gamma_0 = sample_z_0(
        vdm,
        sample_ids,
        labels,
        shape=shape,
        steps=steps,
        sampler=sampler,
        grid=grid,
        guidance=guidance,
        seed=seed,
        clip=clip,
        progress=progress,
    )
    return decode_levels(z_0, gamma_0, vdm.levels, uniforms=uniforms)


@torch.no_grad()
def sample_z_0(
    vdm: VDM,
    sample_ids: Tensor,
    labels: Tensor | None = None,
    *,
    shape: tuple[int, int, int],
    steps: int = 250,
    sampler: SamplerName | Sampler = "ancestral",
    grid: Grid = "t",
    guidance: Guidance | Sequence[Guidance] | None = None,
    seed: Seed = 0,
    clip: Literal["static", "dynamic"] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """z_0 (B,C,H,W) and its gamma, before they become data: arguments and errors as `sample`."""
    walk = _sampler(sampler)
    guidances = _as_sequence(guidance)
    _check_condition(vdm.network, sample_ids, labels, guidances)
    labels = None if labels is None else labels.to(sample_ids.device)
    gammas = _gammas(vdm, steps, grid, sample_ids, seed)
    denoiser = _denoiser(vdm, guidances, clip)
    noise = StepNoise(seed, sample_ids, shape, vdm.dtype)
    z = normal(seed, Purpose.SAMPLE_INIT, sample_ids, shape, dtype=vdm.dtype)
    with evaluation_mode(vdm):
        for done, z_s in enumerate(walk(denoiser, z, labels, gammas, noise), start=1):
            z = z_s
            if progress:
                progress(done)
    return z, gammas[-1].to(z)


@contextmanager
def evaluation_mode(module: nn.Module) -> Iterator[None]:
    """Put a module and all inside it in evaluation mode; give each its own mode back after."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _gammas(vdm: VDM, steps: int, grid: Grid, sample_ids: Tensor, seed: Seed) -> Tensor:
    """The grid of the VDM's schedule: numbers, or maps where each pixel has a gamma of its own."""
    if not vdm.schedule.per_pixel:
        return step_grid(vdm.schedule, steps, grid, sample_ids.device)
    latent = None
    if vdm.latent_dim is not None:
        latent = normal(seed, Purpose.LATENT, sample_ids, (vdm.latent_dim,), dtype=vdm.dtype)
    return map_grid(vdm.schedule, steps, grid, sample_ids.device, latent)


def _sampler(sampler: str | Sampler) -> Sampler:
    match sampler:
        case "ancestral":
            return ancestral
        case "ddim":
            return ddim
        case "dpmpp_2m":
            return dpmpp_2m
        case "heun":
            return heun
        case "pc":
            return pc
        case str():
            names = ", ".join(repr(name) for name in get_args(SamplerName))
            raise ValueError(f"unknown sampler {sampler!r}; give one of {names}, or a function")
        case _:
            return sampler


def _as_sequence(guidance: Guidance | Sequence[Guidance] | None) -> Sequence[Guidance]:
    if guidance is None:
        return ()
    return guidance if isinstance(guidance, Sequence) else (guidance,)


def _denoiser(vdm: VDM, guidances: Sequence[Guidance], clip: str | None) -> Denoiser:
    """The VDM's denoiser, guided, then clipped."""
    denoiser = epsilon_denoiser(vdm)
    for guide in guidances:
        denoiser = guide(denoiser)
    match clip:
        case None:
            return denoiser
        case "static":
            return clip_data(denoiser)
        case "dynamic":
            return threshold_data(denoiser)
        case _:
            raise ValueError(f"clip is {clip!r}; give 'static', 'dynamic' or None")


def _check_condition(
    network: nn.Module, sample_ids: Tensor, labels: Tensor | None, guidances: Sequence[Guidance]
) -> None:
    """Check labels on the CPU, once, against the `classes` of a network that states them.

    The labels of an unconditional network are its guidance's, which knows what they may be.
    """
    if labels is not None and labels.shape != sample_ids.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and sample_ids {tuple(sample_ids.shape)}; "
            "give one label per sample"
        )
    if not isinstance(network, StatesClasses):
        return
    if network.classes is None and guidances:
        if any(isinstance(guide, ClassifierFree) for guide in guidances):
            raise ValueError(
                "ClassifierFree needs a network with classes, and this one is unconditional; leave "
                "it out of guidance, or train a network built with classes=<number of classes>"
            )
        return
    check_labels(None if labels is None else labels.cpu(), network.classes)
