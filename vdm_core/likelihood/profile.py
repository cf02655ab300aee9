"""Where along gamma the diffusion term comes from, with standard errors.

The term is 1/2 the integral of E|epsilon - epsilon_hat(z_gamma, gamma)|^2 over gamma, from gamma_0
to gamma_1 (Kingma et al. 2021, equation 18). Its integrand depends on the network alone: the
schedule only chooses how often each gamma is visited.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from vdm_core.decoder import encode
from vdm_core.diffusion import diffuse
from vdm_core.prediction import squared_error
from vdm_core.rng import Purpose, normal
from vdm_core.samplers import evaluation_mode
from vdm_core.vdm import VDM


class Estimate(NamedTuple):
    """A ``mean`` over examples and its ``standard_error``, in the unit of what was averaged."""

    mean: Tensor
    standard_error: Tensor


class Profile(NamedTuple):
    """The profile at ``gammas`` (N,), both estimates (N,) with their standard errors.

    ``error``: E|epsilon - epsilon_hat|^2. ``integrand``: half of it, in bits/dim per unit of gamma.
    """

    gammas: Tensor
    error: Estimate
    integrand: Estimate


@torch.no_grad()
def error_profile(
    vdm: VDM,
    images: Tensor,
    indices: Tensor,
    labels: Tensor | None = None,
    *,
    gammas: Tensor,
    seed: int = 0,
) -> Tensor:
    """|epsilon - epsilon_hat|^2 of each image at each gamma: (B,N).

    ``images``: (B,C,H,W) uint8. ``indices``: (B,) int64, whose draws these are. ``gammas``: (N,),
    rising. Rows of several batches may be stacked. Raises ValueError for gammas that do not rise
    and for a schedule with a gamma for each pixel.
    """
    check_one_gamma(vdm, "error_profile")
    check_rising(gammas)
    shape, dtype = tuple(images.shape[1:]), vdm.dtype
    x = encode(images, vdm.levels, dtype)
    columns = []
    with evaluation_mode(vdm):
        for column, gamma in enumerate(gammas.to(x)):
            noise = normal(seed, Purpose.NOISE, indices, shape, step=column, dtype=dtype)
            noised = diffuse(x, gamma.expand(len(x)), noise)
            answer = vdm.network(noised.z, noised.gamma, labels).to(dtype)
            columns.append(squared_error(answer, x, noise, noised.gamma, vdm.prediction))
    return torch.stack(columns, dim=1)


def profile(gammas: Tensor, errors: Tensor, dims: int) -> Profile:
    """Means and standard errors over the examples of ``errors`` (B,N); ``dims`` is C * H * W.

    Raises ValueError for fewer than two examples and for gammas that do not rise.
    """
    check_rising(gammas)
    return Profile(gammas, estimate(errors), estimate(errors / (2 * dims * math.log(2.0))))


def profile_loss(gammas: Tensor, errors: Tensor) -> Tensor:
    """The diffusion term between the ends of ``gammas`` (N,), by the trapezium rule: (B,), nats.

    ``errors``: (B,N) of ``error_profile``.
    """
    check_rising(gammas)
    return 0.5 * torch.trapezoid(errors, gammas.to(errors))


def estimate(values: Tensor) -> Estimate:
    """Mean over the first dimension of ``values`` (B,...) and its standard error, std / sqrt(B).

    Raises ValueError for fewer than two examples, which have no standard error.
    """
    if len(values) < 2:
        raise ValueError(f"values holds {len(values)} examples: a standard error needs 2 or more")
    return Estimate(values.mean(0), values.std(0) / len(values) ** 0.5)


def check_one_gamma(vdm: VDM, what: str) -> None:
    """Raise ValueError, naming ``what``, for a schedule with a gamma for each pixel."""
    if vdm.schedule.per_pixel:
        raise ValueError(
            f"{what} needs one gamma for an image, and a {type(vdm.schedule).__name__} has one for "
            "each pixel: use discrete_bound or continuous_bound"
        )


def check_rising(gammas: Tensor) -> None:
    """Raise ValueError unless ``gammas`` is (N,), N at least 2, finite and strictly increasing."""
    if gammas.ndim != 1 or len(gammas) < 2:
        raise ValueError(f"gammas have shape {tuple(gammas.shape)}: give (N,) with N at least 2")
    if not (gammas.isfinite().all() and (gammas.diff() > 0).all()):
        raise ValueError(f"gammas are {gammas.tolist()}: give finite numbers, each above the last")
