"""The likelihood of images under the probability-flow ODE (Song et al. 2021, section 4.3).

In the variable y = z / alpha and in gamma-time the ODE has no linear part left,

    dy / d gamma = 1/2 exp(gamma / 2) epsilon_hat(alpha y, gamma),

and the change of variables says

    log p(y at gamma_0) = log p(y at gamma_1) + integral of 1/2 sigma trace(d epsilon_hat / d z),

where p(y at gamma_1) belongs to z_1 ~ N(0, I). The integrand stays between 0 and D/2 for Gaussian
data and is smooth in gamma, which is what makes few steps enough. The trace is exact in D calls of
autograd, or estimated by Hutchinson's probe v as v^T (d epsilon_hat / d z) v, with one v for the
whole solve: a v drawn anew at each stage would make the field random and mislead the solver.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import torch
from torch import Tensor

from vdm_core.diffusion import alpha_sigma
from vdm_core.likelihood.dequantise import Dequantisation, dequantise
from vdm_core.likelihood.importance import importance_weighted
from vdm_core.likelihood.profile import check_one_gamma
from vdm_core.likelihood.solvers import DormandPrince, Solver
from vdm_core.prediction import to_epsilon
from vdm_core.rng import Purpose, normal, uniform
from vdm_core.samplers import evaluation_mode
from vdm_core.vdm import VDM

Divergence = Literal["exact", "rademacher", "gaussian"]

EpsilonHat = Callable[[Tensor, Tensor], Tensor]
"""z (B,C,H,W), gamma (B,) -> epsilon_hat (B,C,H,W); each example may be at a gamma of its own."""

_DEFAULT_SOLVER = DormandPrince()


@torch.no_grad()
def ode_nll(
    vdm: VDM,
    images: Tensor,
    indices: Tensor,
    labels: Tensor | None = None,
    *,
    dequantisation: Dequantisation = "truncated_normal",
    divergence: Divergence = "rademacher",
    draws: int = 1,
    solver: Solver = _DEFAULT_SOLVER,
    seed: int = 0,
) -> Tensor:
    """-log P(x) of ``images`` (B,C,H,W) uint8 under the ODE: (B,), nats.

    An upper bound in expectation, from K = ``draws`` importance-weighted dequantisations; the exact
    value for K to infinity. An estimated divergence adds noise of mean 0 to each log density. One
    probe serves all K draws of an image, so that the noise they share does not bias the mean of
    their exponentials. ``indices``: (B,) int64, whose draws these are. Raises ValueError for an
    unknown name, ``draws`` below 1 and a schedule with a gamma for each pixel.
    """
    check_one_gamma(vdm, "ode_nll")
    if draws < 1:
        raise ValueError(f"draws is {draws}: give at least 1 dequantisation of each image")
    ends = torch.arange(2, dtype=torch.float64, device=images.device)
    gamma_0, gamma_1 = vdm.schedule(ends).gamma.tolist()
    shape, dtype = tuple(images.shape[1:]), vdm.dtype
    probe = _probe(divergence, indices, shape, seed, dtype)

    def epsilon_hat(z: Tensor, gamma: Tensor) -> Tensor:
        return to_epsilon(vdm.network(z, gamma, labels).to(dtype), z, gamma, vdm.prediction)

    log_weights = []
    with evaluation_mode(vdm):
        for draw in range(draws):
            y, log_q = dequantise(
                images,
                indices,
                vdm.levels,
                gamma_0,
                kind=dequantisation,
                draw=draw,
                seed=seed,
                dtype=dtype,
            )
            log_p = ode_log_density(
                epsilon_hat, y, gamma_0=gamma_0, gamma_1=gamma_1, probe=probe, solver=solver
            )
            log_weights.append(log_p - log_q)
    return importance_weighted(torch.stack(log_weights))


def ode_log_density(
    epsilon_hat: EpsilonHat,
    y: Tensor,
    *,
    gamma_0: float,
    gamma_1: float,
    probe: Tensor | None = None,
    solver: Solver = _DEFAULT_SOLVER,
) -> Tensor:
    """log p(y) of y = z / alpha at ``gamma_0``, (B,) nats, without gradient.

    ``y``: (B,C,H,W). ``probe``: Hutchinson's v, shaped like y with E[v v^T] = I; None for the exact
    trace, which takes D = C H W backward passes at each call. The examples of a batch must not
    interact. Raises ValueError unless ``gamma_0`` < ``gamma_1``.
    """
    if not gamma_0 < gamma_1:
        raise ValueError(f"gamma_0 is {gamma_0} and gamma_1 is {gamma_1}: the first must be below")

    def field(gamma: Tensor, state: Tensor) -> Tensor:
        alpha, sigma = alpha_sigma(gamma)
        z = alpha[:, None] * state[:, :-1]
        epsilon, trace = _epsilon_and_trace(epsilon_hat, z.view_as(y), gamma, probe)
        velocity = 0.5 * torch.exp(gamma / 2)[:, None] * epsilon.flatten(1)
        return torch.cat([velocity, (0.5 * sigma * trace)[:, None]], dim=1)

    with torch.no_grad():
        start = torch.cat([y.flatten(1), torch.zeros_like(y[:, :1, 0, 0])], dim=1)
        state = solver(field, start, gamma_0, gamma_1)
    dims = y[0].numel()
    log_alpha = -0.5 * math.log1p(math.exp(gamma_1))
    squares = (math.exp(log_alpha) * state[:, :-1]).square().sum(1)
    return state[:, -1] - 0.5 * squares - dims * (0.5 * math.log(math.tau) - log_alpha)


def _epsilon_and_trace(
    epsilon_hat: EpsilonHat, z: Tensor, gamma: Tensor, probe: Tensor | None
) -> tuple[Tensor, Tensor]:
    """epsilon_hat (B,C,H,W) and the trace of its Jacobian in z, (B,), exact or by the probe."""
    with torch.enable_grad():
        z = z.detach().requires_grad_()
        epsilon = epsilon_hat(z, gamma)
    if probe is not None:
        (product,) = torch.autograd.grad(epsilon, z, probe)
        return epsilon.detach(), (product * probe).flatten(1).sum(1)
    trace = torch.zeros_like(gamma)
    for basis in torch.eye(z[0].numel(), dtype=z.dtype, device=z.device):
        direction = basis.view(z.shape[1:]).expand_as(z)
        (row,) = torch.autograd.grad(epsilon, z, direction, retain_graph=True)
        trace = trace + (row * direction).flatten(1).sum(1)
    return epsilon.detach(), trace


def _probe(
    divergence: Divergence,
    indices: Tensor,
    shape: tuple[int, ...],
    seed: int,
    dtype: torch.dtype,
) -> Tensor | None:
    match divergence:
        case "exact":
            return None
        case "gaussian":
            return normal(seed, Purpose.HUTCHINSON, indices, shape, dtype=dtype)
        case "rademacher":
            coins = uniform(seed, Purpose.HUTCHINSON, indices, shape, dtype=dtype)
            return torch.where(coins < 0.5, -1.0, 1.0).to(dtype)
    raise ValueError(
        f"unknown divergence {divergence!r}: give one of {', '.join(get_args(Divergence))}"
    )
