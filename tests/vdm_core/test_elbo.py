"""The ELBO's terms against closed forms: KL divergences, Gaussian data, the limits of time."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributions import Normal, kl_divergence

from vdm_core import elbo
from vdm_core.diffusion import alpha_sigma, diffuse, posterior
from vdm_core.schedule import LinearSchedule, MonotoneSchedule, Schedule

GAMMA_0, GAMMA_1 = -6.0, 4.0
MEAN, STD = 0.3, 0.5


def quadrature(nodes: int) -> tuple[Tensor, Tensor]:
    """Gauss-Legendre times and weights on [0, 1]."""
    nodes_, weights = np.polynomial.legendre.leggauss(nodes)
    return torch.from_numpy(nodes_ + 1) / 2, torch.from_numpy(weights) / 2


def gaussian_diffusion(schedule: Schedule, times: Tensor, steps: int | None) -> Tensor:
    """E over data and noise of the diffusion term, for N(MEAN, STD^2) data and the optimal
    denoiser, at each of ``times``. The term is quadratic in (x, epsilon), so that the mean over
    the four points x = MEAN +- STD, epsilon = +-1 is the expectation, exactly.
    """
    at = elbo.noise_levels(schedule, times, steps, torch.float64)
    terms = []
    for x_sign in (-1.0, 1.0):
        for noise_sign in (-1.0, 1.0):
            x = torch.full((len(times), 1, 1, 1), MEAN + x_sign * STD, dtype=torch.float64)
            noise = torch.full_like(x, noise_sign)
            z = diffuse(x, at.gamma_t, noise).z
            alpha, sigma = alpha_sigma(at.gamma_t, like=x)
            optimal = sigma * (z - alpha * MEAN) / (alpha.square() * STD**2 + sigma.square())
            terms.append(elbo.diffusion(optimal, x, noise, at.gamma_t, at.weight, "epsilon"))
    return torch.stack(terms).mean(0)


def continuous_gaussian_limit() -> float:
    """1/2 integral of STD^2 / (STD^2 + e^gamma) d gamma, by hand."""
    return 0.5 * math.log((1 + STD**2 * math.exp(-GAMMA_0)) / (1 + STD**2 * math.exp(-GAMMA_1)))


def discrete_gaussian_loss(steps: int) -> float:
    schedule = LinearSchedule(GAMMA_0, GAMMA_1)
    middles = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
    return gaussian_diffusion(schedule, middles, steps).mean().item()


def test_the_continuous_diffusion_loss_of_gaussian_data_is_its_integral() -> None:
    times, weights = quadrature(80)
    loss = gaussian_diffusion(LinearSchedule(GAMMA_0, GAMMA_1), times, None)
    assert (loss * weights).sum().item() == pytest.approx(continuous_gaussian_limit(), abs=1e-9)


def test_two_schedules_with_the_same_ends_have_the_same_continuous_loss() -> None:
    """Only the ends matter (VDM, section 5.1), which holds on average over the data."""
    schedule = MonotoneSchedule(GAMMA_0, GAMMA_1, units=32).double()
    with torch.no_grad():
        generator = torch.Generator().manual_seed(1)
        for parameter in schedule.warp.parameters():
            parameter += 1.5 * torch.randn(parameter.shape, generator=generator).double()
    times = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    bent = schedule(times).gamma - LinearSchedule(GAMMA_0, GAMMA_1)(times).gamma
    assert bent.abs().max() > 1
    loss = gaussian_diffusion(schedule, times, None).mean().item()
    assert loss == pytest.approx(continuous_gaussian_limit(), abs=1e-5)


def test_the_discrete_loss_falls_towards_the_continuous_one_like_one_over_steps() -> None:
    gaps = [
        discrete_gaussian_loss(steps) - continuous_gaussian_limit()
        for steps in (100, 200, 400, 800)
    ]
    assert min(gaps) > 0
    for wide, narrow in itertools.pairwise(gaps):
        assert wide / narrow == pytest.approx(2, rel=0.03)


def test_for_gaussian_data_the_bound_is_the_known_negative_log_density() -> None:
    """With ends far enough out for z_1 to be N(0, 1), and x given z_0 read as N(z_0 / alpha_0,
    e^gamma_0), whose entropy is the reconstruction term, the bound is the entropy of the data."""
    gamma_0, gamma_1 = -30.0, 30.0
    times, weights = quadrature(400)
    schedule = LinearSchedule(gamma_0, gamma_1).double()
    diffusion = (gaussian_diffusion(schedule, times, None) * weights).sum().item()
    x = torch.tensor([MEAN - STD, MEAN + STD], dtype=torch.float64).reshape(2, 1, 1, 1)
    prior = elbo.prior(x, torch.tensor([gamma_1], dtype=torch.float64)).mean().item()
    reconstruction = 0.5 * math.log(2 * math.pi * math.e * math.exp(gamma_0))
    entropy = 0.5 * math.log(2 * math.pi * math.e * STD**2)
    assert reconstruction + prior + diffusion == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize("steps", [1, 10, 1000])
def test_each_discrete_term_is_the_kl_of_the_two_gaussians(steps: int) -> None:
    """T times KL(q(z_s | z_t, x) || q(z_s | z_t, x_hat)) for a step drawn from T."""
    schedule = LinearSchedule(GAMMA_0, GAMMA_1)
    times = torch.rand(20, dtype=torch.float64)
    x, noise, x_hat = torch.randn(3, 20, 2, 3, 3, dtype=torch.float64)
    at = elbo.noise_levels(schedule, times, steps, torch.float64)
    loss = elbo.diffusion(x_hat, x, noise, at.gamma_t, at.weight, "x")
    i = (times * steps).floor() + 1
    gamma_s, gamma_t = schedule((i - 1) / steps).gamma, schedule(i / steps).gamma
    torch.testing.assert_close(at.gamma_t, gamma_t.detach())
    q = posterior(*(gamma.detach()[:, None, None, None] for gamma in (gamma_s, gamma_t)))
    z = diffuse(x, gamma_t.detach(), noise).z
    kl = kl_divergence(
        Normal(q.from_z * z + q.from_x * x, q.std), Normal(q.from_z * z + q.from_x * x_hat, q.std)
    )
    torch.testing.assert_close(loss, steps * kl.flatten(1).sum(1), rtol=1e-7, atol=1e-9)


def test_the_discrete_weight_is_the_difference_of_two_snrs_and_keeps_its_digits() -> None:
    """In float32, 1000 steps of gamma are 1e-4 apart from their neighbours' rounding."""
    times = torch.arange(1000) / 1000 + 5e-4
    at = elbo.noise_levels(LinearSchedule(), times, 1000)
    i = torch.arange(1, 1001, dtype=torch.float64)
    schedule = LinearSchedule().double()
    gamma_s, gamma_t = schedule((i - 1) / 1000).gamma, schedule(i / 1000).gamma
    reference = 1000 * (torch.exp(-gamma_s) - torch.exp(-gamma_t)) * torch.exp(gamma_t)
    assert at.weight.dtype == torch.float32
    torch.testing.assert_close(at.weight.double(), reference.detach(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("steps", [1, 3, 7, 10, 1000])
def test_times_map_to_the_steps_from_first_to_last(steps: int) -> None:
    """Also at 0, at the largest float32 below 1, and at 1: no step reaches s < 0 or t > 1."""
    times = torch.tensor([0.0, 1 / steps - 1e-5, 1 / steps, 0.5, 1 - 2**-24, 1.0]).clamp(0, 1)
    gamma_t = elbo.noise_levels(LinearSchedule(0.0, 1.0), times, steps).gamma_t
    expected = torch.tensor([1.0, 1.0, min(2, steps), steps // 2 + 1, steps, steps]) / steps
    torch.testing.assert_close(gamma_t, expected, rtol=1e-6, atol=1e-6)


def test_the_schedule_is_asked_once_and_keeps_its_ends_exact() -> None:
    calls = []

    class Counted(LinearSchedule):
        def forward(self, t: Tensor):  # type: ignore[no-untyped-def]
            calls.append(t)
            return super().forward(t)

    for steps in (None, 10):
        at = elbo.noise_levels(Counted(), torch.rand(5), steps)
        assert torch.equal(torch.cat([at.gamma_0, at.gamma_1]), torch.tensor([-13.3, 5.0]))
        assert at.gamma_t.shape == at.weight.shape == (5,)
    assert len(calls) == 2


@pytest.mark.parametrize("gamma_1", [-2.0, 0.0, 5.0, 12.0])
def test_the_prior_term_is_the_kl_to_the_standard_normal(gamma_1: float) -> None:
    x = torch.rand(4, 3, 5, 5, dtype=torch.float64) * 2 - 1
    gamma = torch.tensor([gamma_1], dtype=torch.float64)
    alpha, sigma = alpha_sigma(gamma, like=x)
    reference = kl_divergence(Normal(alpha * x, sigma), Normal(0.0, 1.0)).flatten(1).sum(1)
    torch.testing.assert_close(elbo.prior(x, gamma), reference, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(
        elbo.prior(x.float(), gamma.float()).double(), reference, rtol=1e-4, atol=1e-6
    )


def test_learned_ends_get_gradients_from_every_term() -> None:
    schedule = LinearSchedule()
    x, noise = torch.randn(2, 6, 1, 4, 4)
    for steps in (None, 8):
        at = elbo.noise_levels(schedule, torch.rand(6), steps)
        loss = elbo.diffusion(torch.zeros_like(x), x, noise, at.gamma_t, at.weight, "epsilon")
        torch.autograd.backward((loss + elbo.prior(x, at.gamma_1)).sum())
        for end in (schedule.ends.end_0, schedule.ends.end_1):
            assert end.grad is not None
            assert end.grad.item() != 0
            end.grad = None
