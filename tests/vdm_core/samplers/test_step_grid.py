"""Grids of gammas: where they go, and that the profile's grid is the best for the ELBO."""

import math

import pytest
import torch

from vdm_core import AdaptiveSchedule, LinearSchedule, MonotoneSchedule, MultivariateSchedule
from vdm_core.samplers import profile_grid, step_grid

CPU = torch.device("cpu")


def warped():
    schedule = MonotoneSchedule(gamma_0=-10.0, gamma_1=4.0, units=8)
    with torch.no_grad():
        schedule.warp.weight_3.mul_(torch.arange(8) / 2)
    return schedule


def test_grid_in_t_takes_the_schedule_at_even_times():
    schedule = warped()
    times = torch.tensor([1.0, 0.75, 0.5, 0.25, 0.0], dtype=torch.float64)
    gammas = step_grid(schedule, 4, "t", CPU)
    assert gammas.dtype == torch.float64
    assert torch.equal(gammas, schedule(times).gamma.detach())


def test_grid_in_gamma_has_even_steps_between_the_same_ends():
    gammas = step_grid(warped(), 7, "gamma", CPU)
    assert (gammas[0].item(), gammas[-1].item()) == (4.0, -10.0)
    torch.testing.assert_close(gammas.diff(), torch.full((7,), -2.0).double())


def test_a_given_grid_is_taken_as_it_is():
    gammas = torch.tensor([3.0, 1.0, -2.0])
    assert torch.equal(step_grid(warped(), 2, gammas, CPU), gammas.double())


@pytest.mark.parametrize(
    ("schedule", "steps", "grid", "message"),
    [
        (LinearSchedule(), 0, "t", "steps is 0"),
        (LinearSchedule(), 2, "snr", "grid is 'snr'; give 't', 'gamma' or a tensor"),
        (LinearSchedule(), 3, torch.tensor([1.0, 0.0]), r"shape \(2,\); 3 steps take \(4,\)"),
        (LinearSchedule(), 3, torch.tensor([3.0, 1.0, 1.0, 0.0]), "from 1 to 1 in step 1"),
        (LinearSchedule(), 2, torch.tensor([-1.0, 0.0, 1.0]), "from -1 to 0 in step 0"),
        (LinearSchedule(), 2, torch.tensor([1.0, math.nan, -1.0]), "from 1 to nan in step 0"),
        (LinearSchedule(), 1, torch.tensor([math.inf, 0.0]), "from inf to 0 in step 0"),
        (MultivariateSchedule((1, 2, 2)), 2, "t", "MultivariateSchedule has a gamma for each"),
        (AdaptiveSchedule((1, 2, 2)), 2, "t", "AdaptiveSchedule has a gamma for each pixel"),
    ],
)
def test_grids_that_cannot_be_walked_are_refused(schedule, steps, grid, message):
    with pytest.raises(ValueError, match=message):
        step_grid(schedule, steps, grid, CPU)


def gaussian_profile(gammas, variances):
    """E|epsilon - epsilon_hat|^2 for independent Gaussians: sum of v SNR / (1 + v SNR)."""
    signal = variances * torch.exp(-gammas)[:, None]
    return (signal / (1 + signal)).sum(1)


def bound(gammas, variances):
    """The T-step diffusion loss along falling gammas, nats (Kingma et al. 2021, section 4.1)."""
    error = gaussian_profile(gammas[:-1], variances)
    return 0.5 * (torch.expm1(-gammas.diff()) * error).sum().item()


def test_for_one_gaussian_the_profiles_grid_has_even_steps_of_log_one_plus_snr():
    variances = torch.tensor([0.3], dtype=torch.float64)
    table = torch.linspace(-13.0, 5.0, 3000, dtype=torch.float64)
    gammas = profile_grid(table, gaussian_profile(table, variances), 50)
    assert (gammas[0].item(), gammas[-1].item(), len(gammas)) == (5.0, -13.0, 51)
    steps = torch.log1p(0.3 * torch.exp(-gammas)).diff()
    torch.testing.assert_close(steps, steps.mean().expand(50), rtol=1e-4, atol=0)


def test_no_other_grid_of_as_many_steps_has_a_smaller_bound():
    """Not the even one, by far, nor the profile's own after a smooth deformation."""
    variances = torch.tensor([1.0, 0.1, 0.001], dtype=torch.float64)
    table = torch.linspace(-13.0, 8.0, 400, dtype=torch.float64)
    gammas = profile_grid(table, gaussian_profile(table, variances), 200)
    limit = 0.5 * torch.log1p(variances * math.exp(13.0)).sum().item()
    limit -= 0.5 * torch.log1p(variances * math.exp(-8.0)).sum().item()
    ours = bound(gammas, variances) - limit
    even = bound(torch.linspace(8.0, -13.0, 201, dtype=torch.float64), variances) - limit
    assert 0 < ours < 0.9 * even
    u = torch.linspace(0, 1, 201, dtype=torch.float64)
    for waves in (1, 2, 3):
        for size in (-1.0, 1.0):
            other = gammas + size * torch.sin(math.pi * waves * u)
            assert bound(other, variances) - limit > ours


def test_a_noisy_table_still_gives_a_falling_grid():
    variances = torch.tensor([0.25], dtype=torch.float64)
    table = torch.linspace(-13.0, 5.0, 60, dtype=torch.float64)
    noise = torch.randn(60, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gammas = profile_grid(table, gaussian_profile(table, variances) * (1 + 0.3 * noise).abs(), 500)
    assert torch.equal(step_grid(LinearSchedule(), 500, gammas, CPU), gammas)


def test_no_step_ends_where_the_profile_falls_faster_than_it_can():
    """e + de/dgamma is below 0 between 0 and 1, which only measurement noise can do."""
    gammas = profile_grid(torch.tensor([0.0, 1.0, 2.0]), torch.tensor([1.0, 0.1, 1.0]), 4)
    torch.testing.assert_close(gammas, torch.tensor([2.0, 1.75, 1.5, 1.25, 0.0]).double())


@pytest.mark.parametrize(
    ("gammas", "profile", "steps", "message"),
    [
        ([0.0, 1.0], [1.0, 1.0], 0, "steps is 0"),
        ([0.0, 1.0], [1.0], 2, r"shape \(2,\) and profile \(1,\)"),
        ([0.0], [1.0], 2, "N >= 2"),
        ([1.0, 0.0], [1.0, 1.0], 2, "not finite and rising"),
        ([0.0, math.nan], [1.0, 1.0], 2, "not finite and rising"),
        ([0.0, 1.0], [1.0, -1.0], 2, "negative or not finite"),
        ([0.0, 1.0], [1.0, math.nan], 2, "negative or not finite"),
        ([0.0, 1.0], [0.0, 0.0], 2, "nowhere above 0"),
    ],
)
def test_tables_that_are_no_profile_are_refused(gammas, profile, steps, message):
    with pytest.raises(ValueError, match=message):
        profile_grid(torch.tensor(gammas), torch.tensor(profile), steps)
