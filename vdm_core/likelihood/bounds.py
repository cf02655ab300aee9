"""The bound on -log p(x) term by term, as exactly as an evaluation can afford.

Training looks at one random time per image. Here the diffusion term of T steps is the sum over all
of them (Kingma et al. 2021, equation 13), and that of continuous time a mean over many stratified
times (equation 17). What is left to chance is the noise: one draw for each image and time.
"""

from __future__ import annotations

import torch
from torch import Tensor

from vdm_core import elbo
from vdm_core.adaptive import AdaptiveSchedule, AuxiliaryLatent
from vdm_core.decoder import encode
from vdm_core.diffusion import diffuse
from vdm_core.records import AdaptiveElboTerms, ElboTerms
from vdm_core.rng import Purpose, normal, uniform
from vdm_core.samplers import evaluation_mode
from vdm_core.vdm import VDM


def discrete_bound(
    vdm: VDM,
    images: Tensor,
    indices: Tensor,
    labels: Tensor | None = None,
    *,
    steps: int,
    seed: int = 0,
) -> ElboTerms | AdaptiveElboTerms:
    """The bound at T = ``steps``, with one network call for each of the T steps.

    ``images``: (B,C,H,W) uint8. ``indices``: (B,) int64, whose draws these are. ``labels``: (B,)
    int64 or None. Whatever ``vdm.steps`` is. Raises ValueError for ``steps`` below 1.
    """
    if steps < 1:
        raise ValueError(f"steps is {steps}: a bound needs at least 1")
    middles = (torch.arange(steps, dtype=torch.float64, device=images.device) + 0.5) / steps
    times = middles[:, None].expand(steps, len(images))
    return _bound(vdm, images, indices, labels, times, steps, seed)


def continuous_bound(
    vdm: VDM,
    images: Tensor,
    indices: Tensor,
    labels: Tensor | None = None,
    *,
    draws: int = 1,
    seed: int = 0,
) -> ElboTerms | AdaptiveElboTerms:
    """The bound in continuous time, unbiased, from ``draws`` times for each image.

    The d-th time is uniform in [d / draws, (d + 1) / draws). Other arguments as for
    ``discrete_bound``. Raises ValueError for ``draws`` below 1.
    """
    if draws < 1:
        raise ValueError(f"draws is {draws}: a bound needs at least 1")
    u = uniform(seed, Purpose.BOUND_TIMES, indices, (draws,), dtype=torch.float64).T
    times = (torch.arange(draws, device=images.device)[:, None] + u) / draws
    return _bound(vdm, images, indices, labels, times, None, seed)


def draw_latent(
    vdm: VDM, x: Tensor, indices: Tensor, seed: int, draw: int = 0
) -> AuxiliaryLatent | None:
    """The latent of an adaptive schedule for scaled images ``x``; None for other schedules."""
    if not isinstance(vdm.schedule, AdaptiveSchedule):
        return None
    size = (vdm.schedule.latent_dim,)
    noise = normal(seed, Purpose.LATENT, indices, size, step=draw, dtype=x.dtype)
    return vdm.schedule.infer(x, noise)


@torch.no_grad()
def _bound(
    vdm: VDM,
    images: Tensor,
    indices: Tensor,
    labels: Tensor | None,
    times: Tensor,
    steps: int | None,
    seed: int,
) -> ElboTerms | AdaptiveElboTerms:
    """The terms of the ELBO, the diffusion term averaged over the rows of ``times`` (N,B)."""
    shape, dtype = tuple(images.shape[1:]), vdm.dtype
    x = encode(images, vdm.levels, dtype)
    latent = draw_latent(vdm, x, indices, seed)
    c = None if latent is None else latent.value
    diffusion = torch.zeros(len(x), dtype=torch.float64, device=x.device)
    with evaluation_mode(vdm):
        for row, t in enumerate(times):
            at = elbo.noise_levels(vdm.schedule, t, steps, dtype, c)
            noise = normal(seed, Purpose.NOISE, indices, shape, step=row, dtype=dtype)
            z_t = diffuse(x, at.gamma_t, noise).z
            answer = vdm.network(z_t, at.network_gamma, labels).to(dtype)
            diffusion += elbo.diffusion(answer, x, noise, at.gamma_t, at.weight, vdm.prediction)
    noise_0 = normal(seed, Purpose.NOISE_0, indices, shape, dtype=dtype)
    z_0 = diffuse(x, at.gamma_0, noise_0).z
    terms = ElboTerms(
        reconstruction=elbo.reconstruction(images, z_0, at.gamma_0, vdm.levels),
        prior=elbo.prior(x, at.gamma_1),
        diffusion=(diffusion / len(times)).to(dtype),
    )
    return terms if latent is None else AdaptiveElboTerms(*terms, auxiliary=latent.kl)
