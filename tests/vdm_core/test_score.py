"""The score view: scores of known data, the loss it matches, and where its SDE and ODE lead."""

import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from vdm_core import VDM, LinearSchedule, MonotoneSchedule, elbo
from vdm_core.denoiser import epsilon_denoiser
from vdm_core.diffusion import alpha_sigma, diffuse, posterior
from vdm_core.prediction import convert
from vdm_core.samplers import ancestral, heun
from vdm_core.schedule import Schedule
from vdm_core.score import (
    denoiser_of,
    denoising_score_matching,
    forward_sde,
    gaussian_score,
    probability_flow_drift,
    reverse_sde_drift,
    score_of,
    tweedie,
)

MEAN = torch.tensor([0.3, -0.5, 0.1], dtype=torch.float64)
ROOT = torch.tensor([[0.6, 0.0, 0.0], [0.2, 0.4, 0.0], [-0.1, 0.3, 0.3]], dtype=torch.float64)
COVARIANCE = ROOT @ ROOT.T


def data_score(z: Tensor, gamma: float | Tensor, labels: Tensor | None = None) -> Tensor:
    """The exact score of N(MEAN, COVARIANCE) data as a `Score`."""
    return gaussian_score(z, torch.full((len(z),), float(gamma)).to(z), MEAN, COVARIANCE)


def points(count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(count, 3, 1, 1, generator=generator, dtype=torch.float64)


def test_the_gaussian_score_is_the_gradient_of_the_marginals_log_density() -> None:
    gamma = torch.linspace(-6, 4, 5, dtype=torch.float64)
    z = points().requires_grad_()
    alpha, sigma = (c[:, None] for c in alpha_sigma(gamma))
    identity = torch.eye(3, dtype=torch.float64)
    covariance = alpha[..., None] ** 2 * COVARIANCE + sigma[..., None] ** 2 * identity
    log_q = MultivariateNormal(alpha * MEAN, covariance).log_prob(z.flatten(1))
    (expected,) = torch.autograd.grad(log_q.sum(), z)
    torch.testing.assert_close(gaussian_score(z.detach(), gamma, MEAN, COVARIANCE), expected)


def test_tweedies_estimate_is_the_posterior_mean_of_gaussian_data() -> None:
    """E[x | z] by Bayes' rule: precisions add, S^-1 and (alpha / sigma)^2 I."""
    z, gamma = points(), -1.3
    alpha2, sigma2 = 1 / (1 + math.exp(gamma)), 1 / (1 + math.exp(-gamma))
    identity = torch.eye(3, dtype=torch.float64)
    precision = torch.linalg.inv(COVARIANCE) + alpha2 / sigma2 * identity
    right = torch.linalg.solve(COVARIANCE, MEAN) + math.sqrt(alpha2) / sigma2 * z.flatten(1)
    expected = torch.linalg.solve(precision, right.T).T
    actual = tweedie(data_score(z, gamma), z, gamma).flatten(1)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("schedule", [LinearSchedule(), MonotoneSchedule(units=16)])
def test_denoising_score_matching_with_weight_g2_is_the_diffusion_term(schedule: Schedule) -> None:
    """Vincent's loss of s = -epsilon_hat / sigma against the term that training descends."""
    times = torch.linspace(0, 1, 5, dtype=torch.float64)
    x, noise, epsilon_hat = torch.randn(3, 5, 2, 4, 4, dtype=torch.float64)
    with torch.no_grad():
        at = elbo.noise_levels(schedule.double(), times, None, torch.float64)
        slope = schedule(times).slope
    term = elbo.diffusion(epsilon_hat, x, noise, at.gamma_t, at.weight, "epsilon")
    z = diffuse(x, at.gamma_t, noise).z
    score = convert(epsilon_hat, z, at.gamma_t, source="epsilon", target="score")
    g_squared = forward_sde(at.gamma_t, slope).g_squared
    torch.testing.assert_close(
        denoising_score_matching(score, noise, at.gamma_t, g_squared), term, rtol=1e-9, atol=1e-9
    )


def test_the_weights_of_a_vdm_read_as_a_score_and_back() -> None:
    class Half(torch.nn.Module):
        def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
            return 0.5 * z + gamma[:, None, None, None]

    for prediction in ("epsilon", "x", "v", "score"):
        vdm = VDM(Half(), LinearSchedule(), prediction=prediction).double()
        denoiser, z = epsilon_denoiser(vdm), points()
        score = score_of(denoiser)(z, -2.0, None)
        answer = vdm.network(z, torch.full((5,), -2.0, dtype=torch.float64))
        expected = convert(
            answer, z, torch.full((5,), -2.0).double(), source=prediction, target="score"
        )
        torch.testing.assert_close(score, expected)
        back = denoiser_of(score_of(denoiser))(z, -2.0, None)
        torch.testing.assert_close(back, denoiser(z, -2.0, None))


def test_the_forward_sde_has_the_marginals_of_the_forward_process() -> None:
    """d alpha / dt = f alpha and d sigma^2 / dt = 2 f sigma^2 + g^2, slopes by autograd."""
    schedule = MonotoneSchedule(units=16).double()
    t = torch.linspace(0.05, 0.95, 7, dtype=torch.float64).requires_grad_()
    gamma, slope = schedule(t)
    alpha, sigma = alpha_sigma(gamma)
    (d_alpha,) = torch.autograd.grad(alpha.sum(), t, retain_graph=True)
    (d_variance,) = torch.autograd.grad(sigma.square().sum(), t, retain_graph=True)
    f, g_squared = forward_sde(gamma, slope)
    torch.testing.assert_close(f * alpha, d_alpha, rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(2 * f * sigma.square() + g_squared, d_variance, rtol=1e-6, atol=1e-9)


def end_errors(method: str, counts: list[int]) -> list[float]:
    """How far Euler's method on the drift, with each count of steps from gamma = 3 to -4, ends from
    the sampler, which has many and no noise."""
    start, grid = points(), torch.linspace(3, -4, 2001, dtype=torch.float64)
    quiet = torch.zeros_like(start)
    drift = probability_flow_drift if method == "heun" else reverse_sde_drift
    walk = heun if method == "heun" else ancestral
    *_, end = walk(denoiser_of(data_score), start, None, grid, lambda _: quiet)
    errors = []
    for steps in counts:
        gammas, slopes = LinearSchedule(-4.0, 3.0)(torch.linspace(1, 0, steps + 1).double())
        z = start
        for gamma, slope in zip(gammas[:-1], slopes[:-1], strict=True):
            sde = forward_sde(gamma.detach().expand(5), slope.detach().expand(5))
            z = z - drift(z, data_score(z, gamma.item()), sde) / steps
        errors.append((z - end).abs().max().item())
    return errors


@pytest.mark.parametrize("method", ["heun", "ancestral"])
def test_the_samplers_follow_the_drifts(method: str) -> None:
    """Euler's method on the ODE's drift nears `heun`'s end, and on the reverse SDE's drift without
    noise that of `ancestral`, with an error that halves with the step."""
    for wide, narrow in itertools.pairwise(end_errors(method, [50, 100, 200])):
        assert wide / narrow == pytest.approx(2, rel=0.1)


def test_the_flow_of_a_score_carries_the_marginals() -> None:
    """Probability-flow sampling of the exact score keeps the number of standard deviations."""
    grid = torch.linspace(3, -4, 301, dtype=torch.float64)
    (alpha_t, sigma_t), (alpha_s, sigma_s) = (alpha_sigma(g) for g in (grid[0], grid[-1]))
    values, vectors = torch.linalg.eigh(COVARIANCE)
    ratio = ((alpha_s**2 * values + sigma_s**2) / (alpha_t**2 * values + sigma_t**2)).sqrt()
    start = points()
    *_, z_0 = heun(denoiser_of(data_score), start, None, grid, lambda _: start)
    along = (start.flatten(1) - alpha_t * MEAN) @ vectors
    expected = alpha_s * MEAN + (along * ratio) @ vectors.T
    torch.testing.assert_close(z_0.flatten(1), expected, rtol=0, atol=2e-5)


def test_the_noise_of_a_sampling_step_is_that_of_the_reverse_sde() -> None:
    """The variance of a step of length h nears g^2 h, with a relative error that halves with h."""
    schedule, t = LinearSchedule(-4.0, 3.0).double(), torch.tensor([0.6], dtype=torch.float64)
    gamma, slope = schedule(t)
    g_squared = forward_sde(gamma, slope).g_squared
    errors = []
    for h in (0.02, 0.01, 0.005):
        variance = posterior(schedule(t - h).gamma, gamma).std.square()
        errors.append((variance / (g_squared * h) - 1).abs().item())
    for wide, narrow in itertools.pairwise(errors):
        assert wide / narrow == pytest.approx(2, rel=0.1)
