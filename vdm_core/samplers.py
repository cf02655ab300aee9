"""Walking gamma back from noise to images.

A sampler is a plain generator over a denoiser, a falling grid of gammas and a source of noise; it
yields z after each step, and the last z is z_0. `sample` makes these three for a VDM and turns z_0
into pixels by p(x | z_0). All noise of a sample is a function of the seed and the sample's own id.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from vdm_core.decoder import decode as decode_levels
from vdm_core.denoiser import Denoiser, clip_data, epsilon_denoiser
from vdm_core.diffusion import alpha_sigma, posterior
from vdm_core.guidance import Guidance
from vdm_core.labels import check_labels
from vdm_core.rng import Purpose, normal, uniform
from vdm_core.vdm import VDM

Noise = Callable[[int], Tensor]
"""step (0 for the first) -> standard normal noise (B,C,H,W)."""

Sampler = Callable[[Denoiser, Tensor, Tensor | None, Tensor, Noise], Iterator[Tensor]]
"""(denoiser, z_1 (B,C,H,W), labels (B,) or None, falling gammas (T+1,), noise) -> each z_s."""


def ancestral(
    denoiser: Denoiser, z: Tensor, labels: Tensor | None, gammas: Tensor, noise: Noise
) -> Iterator[Tensor]:
    """Draw z_s from q(z_s | z_t, x = x_hat) at each step (Kingma et al. 2021, section 3.3)."""
    gamma_t, gamma_s = gammas.double()[:-1], gammas.double()[1:]
    alpha_t, sigma_t = alpha_sigma(gamma_t)
    q = posterior(gamma_s, gamma_t)
    from_z, from_epsilon = q.from_z + q.from_x / alpha_t, -q.from_x * sigma_t / alpha_t
    from_z, from_epsilon, std = (c.to(z.dtype) for c in (from_z, from_epsilon, q.std))
    for step, gamma in enumerate(gammas[:-1].to(z.dtype)):
        epsilon = denoiser(z, gamma.expand(len(z)), labels)
        z = from_z[step] * z + from_epsilon[step] * epsilon + std[step] * noise(step)
        yield z


def ddim(
    denoiser: Denoiser, z: Tensor, labels: Tensor | None, gammas: Tensor, noise: Noise
) -> Iterator[Tensor]:
    """Set z_s = alpha_s x_hat + sigma_s epsilon_hat at each step (Song et al. 2021, eta = 0).

    No noise is drawn after z_1.
    """
    alpha, sigma = alpha_sigma(gammas.double())
    from_z = alpha[1:] / alpha[:-1]
    from_epsilon = sigma[1:] - from_z * sigma[:-1]
    from_z, from_epsilon = from_z.to(z.dtype), from_epsilon.to(z.dtype)
    for step, gamma in enumerate(gammas[:-1].to(z.dtype)):
        z = from_z[step] * z + from_epsilon[step] * denoiser(z, gamma.expand(len(z)), labels)
        yield z


@torch.no_grad()
def sample(
    vdm: VDM,
    sample_ids: Tensor,
    labels: Tensor | None = None,
    *,
    shape: tuple[int, int, int],
    steps: int = 250,
    sampler: Literal["ancestral", "ddim"] | Sampler = "ancestral",
    guidance: Guidance | None = None,
    seed: int = 0,
    decode: Literal["argmax", "sample"] = "argmax",
    clip: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Generate images.

    A sample depends on (seed, its id, its label) alone, whatever else is in the batch, up to the
    rounding of batched kernels. The network runs in evaluation mode.

    Args:
        vdm: the model.
        sample_ids: (B,) int64 from 0 up, on the model's device.
        labels: (B,) int64, -1 for no class; None is -1 throughout.
        shape: (C, H, W).
        steps: T, on the grid t = 1, 1 - 1/T, ..., 0.
        sampler: a name, or a sampler.
        guidance: for a network with classes, e.g. `ClassifierFree(2.0)`.
        seed: of all the noise.
        decode: take the likeliest level of each pixel under p(x | z_0), or draw from it.
        clip: keep x_hat in [-1, 1] at each step. The paper does not; it helps where guidance
            is strong or steps are few.
        progress: called with the number of steps done after each.

    Returns:
        (B, C, H, W) uint8, in [0, vdm.levels).

    Raises:
        ValueError: no step, an unknown name, a label that the network does not have, or guidance
            without labels or classes.
    """
    walk = _sampler(sampler)
    if steps < 1:
        raise ValueError(f"steps is {steps}; sampling takes at least 1")
    if decode not in ("argmax", "sample"):
        raise ValueError(f"decode is {decode!r}; give 'argmax' or 'sample'")
    _check_condition(vdm.network, sample_ids, labels, guidance)
    labels = None if labels is None else labels.to(sample_ids.device)
    times = torch.linspace(1, 0, steps + 1, dtype=torch.float64, device=sample_ids.device)
    gammas = vdm.schedule(times).gamma
    denoiser = epsilon_denoiser(vdm)
    denoiser = guidance(denoiser) if guidance else denoiser
    denoiser = clip_data(denoiser) if clip else denoiser

    def noise(step: int, purpose: Purpose = Purpose.SAMPLE_STEP) -> Tensor:
        return normal(seed, purpose, sample_ids, shape, step=step, dtype=vdm.dtype)

    z = noise(0, Purpose.SAMPLE_INIT)
    with evaluation_mode(vdm):
        for step, z_s in enumerate(walk(denoiser, z, labels, gammas, noise)):
            z = z_s
            if progress:
                progress(step + 1)
    uniforms = None
    if decode == "sample":
        uniforms = uniform(seed, Purpose.SAMPLE_DECODE, sample_ids, shape, dtype=vdm.dtype)
    return decode_levels(z, gammas[-1:].to(vdm.dtype), vdm.levels, uniforms=uniforms)


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


def _sampler(sampler: str | Sampler) -> Sampler:
    match sampler:
        case "ancestral":
            return ancestral
        case "ddim":
            return ddim
        case str():
            raise ValueError(f"unknown sampler {sampler!r}; give 'ancestral', 'ddim' or a function")
        case _:
            return sampler


@runtime_checkable
class StatesClasses(Protocol):
    """A network that says how many classes it knows; None if it is unconditional."""

    classes: int | None


def _check_condition(
    network: nn.Module, sample_ids: Tensor, labels: Tensor | None, guidance: Guidance | None
) -> None:
    """Check labels on the CPU, once, against the `classes` of a network that states them."""
    if labels is not None and labels.shape != sample_ids.shape:
        raise ValueError(
            f"labels have shape {tuple(labels.shape)} and sample_ids {tuple(sample_ids.shape)}; "
            "give one label per sample"
        )
    if guidance and labels is None:
        raise ValueError("guidance needs labels: pass one class per sample, or guidance=None")
    if not isinstance(network, StatesClasses):
        return
    if guidance and network.classes is None:
        raise ValueError(
            "guidance needs a network with classes, and this one is unconditional; pass "
            "guidance=None, or train a network built with classes=<number of classes>"
        )
    check_labels(None if labels is None else labels.cpu(), network.classes)
