"""A tighter bound on -log p(x) from several draws of the latents (Burda et al. 2016).

With w_k = p(x, z^k) / q(z^k | x) for K independent z^k ~ q(z | x), Jensen's inequality gives

    -log p(x) <= -E log( 1/K sum_k w_k ) = -E[ logsumexp_k log w_k - log K ],

which is the ELBO for K = 1 and falls, in expectation, as K grows. Without the log K it would be a
smaller number, and no bound.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_core import decoder
from vdm_core.decoder import encode
from vdm_core.diffusion import alpha_sigma, broadcast, diffuse, posterior
from vdm_core.elbo import NoiseLevels, noise_levels
from vdm_core.likelihood.bounds import draw_latent
from vdm_core.prediction import to_epsilon
from vdm_core.rng import Purpose, normal
from vdm_core.samplers import evaluation_mode
from vdm_core.vdm import VDM


def importance_weighted(log_weights: Tensor) -> Tensor:
    """log K - logsumexp over the K rows of ``log_weights`` (K,B), nats: (B,).

    Raises ValueError unless there is at least one row.
    """
    if log_weights.ndim != 2 or len(log_weights) < 1:
        raise ValueError(
            f"log_weights have shape {tuple(log_weights.shape)}: give (K,B) with K at least 1"
        )
    return math.log(len(log_weights)) - log_weights.logsumexp(0)


@torch.no_grad()
def importance_weighted_bound(
    vdm: VDM,
    images: Tensor,
    indices: Tensor,
    labels: Tensor | None = None,
    *,
    steps: int,
    draws: int,
    seed: int = 0,
) -> Tensor:
    """The bound at T = ``steps`` from K = ``draws`` whole paths z_1, ..., z_0: (B,), nats.

    ``images``: (B,C,H,W) uint8. ``indices``: (B,) int64, whose draws these are. ``labels``: (B,)
    int64 or None. Costs T K network calls. Raises ValueError for ``steps`` or ``draws`` below 1.
    """
    if min(steps, draws) < 1:
        raise ValueError(f"steps is {steps} and draws is {draws}: give at least 1 for both")
    with evaluation_mode(vdm):
        rows = [
            _log_weight(vdm, images, indices, labels, steps, draw, seed) for draw in range(draws)
        ]
    return importance_weighted(torch.stack(rows))


def _log_weight(
    vdm: VDM,
    images: Tensor,
    indices: Tensor,
    labels: Tensor | None,
    steps: int,
    draw: int,
    seed: int,
) -> Tensor:
    """log p(x, z) - log q(z | x) along one path z_1, ..., z_0 drawn from q(z | x), (B,)."""
    shape, dtype = tuple(images.shape[1:]), vdm.dtype
    x = encode(images, vdm.levels, dtype)
    latent = draw_latent(vdm, x, indices, seed, draw)
    c = None if latent is None else latent.value

    def noise(step: int) -> Tensor:
        place = step + draw * (steps + 1)
        return normal(seed, Purpose.NOISE, indices, shape, step=place, dtype=dtype)

    def levels(step: int) -> NoiseLevels:
        t = torch.full((len(x),), step / steps, dtype=torch.float64, device=x.device)
        return noise_levels(vdm.schedule, t, None, torch.float64, c)

    at_t, e = levels(steps), noise(steps)
    gamma_1 = broadcast(at_t.gamma_t, x).to(dtype)
    z = diffuse(x, gamma_1, e).z
    log_w = (F.logsigmoid(gamma_1) + e.square() - z.square()).flatten(1).sum(1) / 2
    for step in reversed(range(steps)):
        at_s, e = levels(step), noise(step)
        prediction = vdm.network(z, at_t.network_gamma.to(dtype), labels).to(dtype)
        gamma_t, gamma_s = broadcast(at_t.gamma_t, x), broadcast(at_s.gamma_t, x)
        epsilon_hat = to_epsilon(prediction, z, gamma_t.to(dtype), vdm.prediction)
        z, log_ratio = _step(x, z, epsilon_hat, gamma_s, gamma_t, e)
        log_w, at_t = log_w + log_ratio, at_s
    log_w = log_w + decoder.log_prob(images, z, at_t.gamma_t.to(dtype), vdm.levels)
    return log_w if latent is None else log_w - latent.log_ratio


def _step(
    x: Tensor, z: Tensor, epsilon_hat: Tensor, gamma_s: Tensor, gamma_t: Tensor, e: Tensor
) -> tuple[Tensor, Tensor]:
    """z_s = mean_q + std e of q(z_s | z_t, x), and log p(z_s | z_t) - log q(z_s | z_t, x), (B,).

    The two Gaussians have one variance, and means that differ by delta standard deviations, delta =
    sqrt(expm1(gamma_t - gamma_s)) (epsilon_hat - epsilon). So the log ratio is -delta e - delta^2 /
    2, and the mean of its negative the step's term of the ELBO. The gammas are float64.
    """
    q = posterior(gamma_s, gamma_t)
    alpha, sigma = alpha_sigma(gamma_t.to(z.dtype))
    scale = torch.expm1(gamma_t - gamma_s).sqrt().to(z.dtype)
    delta = scale * (epsilon_hat - (z - alpha * x) / sigma)
    z_s = q.from_z.to(z.dtype) * z + q.from_x.to(z.dtype) * x + q.std.to(z.dtype) * e
    return z_s, -(delta * e + delta.square() / 2).flatten(1).sum(1)
