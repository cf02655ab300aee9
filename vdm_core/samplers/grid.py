"""Which gammas a sampler stops at: T+1 falling numbers, or T+1 maps, in float64."""

from typing import Literal

import torch
from torch import Tensor

from vdm_core.schedule import Schedule

Grid = Literal["t", "gamma"] | Tensor
"""Steps uniform in t, uniform in gamma, or the gammas themselves."""


def step_grid(schedule: Schedule, steps: int, grid: Grid, device: torch.device) -> Tensor:
    """The gammas of `steps` steps from gamma(1) to gamma(0): (steps + 1,), float64 on the host.

    "t" takes the schedule as it was learned, "gamma" its two ends only, and a tensor of steps + 1
    gammas is taken as it is. `device` is the schedule's.

    Raises:
        ValueError: no step, an unknown name, a tensor of another length, gammas that do not fall,
            or a schedule with a gamma for each pixel.
    """
    _check_steps(steps)
    if schedule.per_pixel:
        raise ValueError(
            f"{type(schedule).__name__} has a gamma for each pixel: its grid is one of maps, see "
            "map_grid"
        )
    if isinstance(grid, Tensor):
        gammas = grid.detach().double().cpu()
    elif grid == "t":
        gammas = _of_schedule(schedule, steps, device)
    elif grid == "gamma":
        ends = _of_schedule(schedule, 1, device)
        gammas = torch.lerp(ends[0], ends[1], _evenly(0, 1, steps))
    else:
        raise ValueError(f"grid is {grid!r}; give 't', 'gamma' or a tensor of steps + 1 gammas")
    if gammas.shape != (steps + 1,):
        raise ValueError(
            f"grid has shape {tuple(gammas.shape)}; {steps} steps take ({steps + 1},) gammas"
        )
    _check_falling(gammas)
    return gammas


def map_grid(
    schedule: Schedule, steps: int, grid: Grid, device: torch.device, latent: Tensor | None
) -> Tensor:
    """The maps of `steps` steps from t = 1 to 0: (steps + 1, B, C, H, W), float64 on `device`.

    B is 1, or for an adaptive schedule the length of its `latent` (B, d).

    Raises:
        ValueError: no step, or another grid than "t": the pixels' gammas share their times only.
    """
    _check_steps(steps)
    if not (isinstance(grid, str) and grid == "t"):
        raise ValueError(
            f"grid is {grid!r}, and a {type(schedule).__name__} has a gamma for each pixel, which "
            "share the times alone: give 't'"
        )
    times = _evenly(1, 0, steps).to(device)[:, None]
    point = schedule(times) if latent is None else schedule(times, latent)
    gammas: Tensor = point.gamma
    return gammas.double()


def profile_grid(gammas: Tensor, profile: Tensor, steps: int) -> Tensor:
    """The grid that costs the ELBO least, from the measured profile e = E|epsilon - epsilon_hat|^2.

    The T-step bound is the sum of (SNR(s) - SNR(t)) m(t) / 2 over the steps (Kingma et al. 2021,
    section 4.1), m = e exp(gamma) being the squared error of x_hat. It is a Riemann sum, above its
    integral by h^2 f / 4 for a step of length h in gamma, with f = exp(-gamma) dm/dgamma =
    e + de/dgamma. So the gap is least with equal steps of the integral of sqrt(f), and this gap
    bounds what discretisation adds to the KL divergence of ancestral samples from the data. For a
    Gaussian of variance v in one dimension these are equal steps of log(1 + v SNR).

    Between two entries of the table e is a straight line, and f its mean, or 0 where measurement
    noise makes that negative (the exact f never is).

    Args:
        gammas: (N,) rising, N >= 2; the first and last are the grid's ends. As in a `Profile` of
            `vdm_core.likelihood`, whose `error.mean` is the next argument.
        profile: (N,) e at these gammas, in any unit.
        steps: T.

    Returns:
        (T + 1,) falling gammas, float64 on the host, for `sample(grid=...)`.

    Raises:
        ValueError: no step, shapes other than these, gammas that do not rise, or a profile that is
            negative, not finite, or falling throughout as fast as exp(-gamma).
    """
    gammas, profile = gammas.detach().double().cpu(), profile.detach().double().cpu()
    _check_steps(steps)
    _check_profile(gammas, profile)
    width = gammas.diff()
    f = (profile[1:] + profile[:-1]) / 2 + profile.diff() / width
    reached = torch.cat([width.new_zeros(1), (f.clamp(min=0).sqrt() * width).cumsum(0)])
    if not reached[-1] > 0:
        raise ValueError("the profile's e + de/dgamma is nowhere above 0; it prefers no grid")
    wanted = _evenly(1, 0, steps)[1:-1] * reached[-1]
    right = torch.searchsorted(reached, wanted)
    left = right - 1
    fraction = (wanted - reached[left]) / (reached[right] - reached[left])
    inner = torch.lerp(gammas[left], gammas[right], fraction)
    return torch.cat([gammas[-1:], inner, gammas[:1]])


def _evenly(first: float, last: float, steps: int) -> Tensor:
    return torch.linspace(first, last, steps + 1, dtype=torch.float64, device="cpu")


def _of_schedule(schedule: Schedule, steps: int, device: torch.device) -> Tensor:
    """gamma at t = 1, 1 - 1/steps, ..., 0, on the host."""
    gammas: Tensor = schedule(_evenly(1, 0, steps).to(device)).gamma
    return gammas.detach().double().cpu()


def _check_steps(steps: int) -> None:
    if steps < 1:
        raise ValueError(f"steps is {steps}; sampling takes at least 1")


def _check_falling(gammas: Tensor) -> None:
    change = gammas.diff()
    wrong = (~((change < 0) & change.isfinite())).nonzero().flatten().tolist()
    if wrong:
        raise ValueError(
            f"grid: gamma goes from {gammas[wrong[0]]:.6g} to {gammas[wrong[0] + 1]:.6g} in step "
            f"{wrong[0]}; gammas must be finite and fall at every step, from noise to data"
        )


def _check_profile(gammas: Tensor, profile: Tensor) -> None:
    if gammas.ndim != 1 or gammas.shape != profile.shape or len(gammas) < 2:
        raise ValueError(
            f"gammas have shape {tuple(gammas.shape)} and profile {tuple(profile.shape)}; give two "
            "tensors (N,) with N >= 2"
        )
    if not gammas.isfinite().all() or not (gammas.diff() > 0).all():
        raise ValueError("the profile's gammas are not finite and rising; sort the table by gamma")
    if not profile.isfinite().all() or not (profile >= 0).all():
        raise ValueError("the profile has entries that are negative or not finite")
