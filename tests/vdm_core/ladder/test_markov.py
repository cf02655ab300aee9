"""Markov chains as encoders: Bayes' rule, linear-Gaussian bounds, and the VDM as one of them."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from vdm_core import VDM, CosineSchedule, LinearSchedule, MonotoneSchedule, MultivariateSchedule
from vdm_core.decoder import encode
from vdm_core.diffusion import alpha_sigma, broadcast, posterior
from vdm_core.ladder.gaussian import Gaussian
from vdm_core.ladder.markov import MarkovEncoder, markov_bound
from vdm_core.ladder.vdm_chain import vdm_encoder, vdm_markov_bound
from vdm_core.prediction import Prediction
from vdm_core.schedule import Schedule

CHAIN = MarkovEncoder(
    torch.tensor([0.9, 0.7, 0.8, 0.5], dtype=torch.float64),
    torch.tensor([0.1, 0.3, 0.2, 0.6], dtype=torch.float64),
)


def joint(encoder: MarkovEncoder, x: float) -> tuple[Tensor, Tensor]:
    """Mean (T+1,) and covariance of z_0, ..., z_T given x, by the chain's linear equations.

    z = M (a_0 x e_0 + sqrt(v) noise) with M the inverse of the bidiagonal matrix of the steps.
    """
    steps = torch.eye(len(encoder.scales), dtype=torch.float64)
    steps -= torch.diag(encoder.scales[1:], -1)
    inverse = torch.linalg.inv(steps)
    mean = inverse[:, 0] * encoder.scales[0] * x
    return mean, inverse @ torch.diag(encoder.variances) @ inverse.T


def test_marginals_are_those_of_the_joint() -> None:
    mean, covariance = joint(CHAIN, 1.7)
    for t in range(4):
        q = CHAIN.marginal(t, torch.full((1, 1), 1.7, dtype=torch.float64))
        torch.testing.assert_close(q.mean.item(), mean[t].item())
        torch.testing.assert_close((2 * q.log_std).exp().item(), covariance[t, t].item())


def test_the_reverse_is_the_joints_conditional_on_all_above() -> None:
    """q(z_{t-1} | z_t, ..., z_T, x) by conditioning the joint: only z_t and x matter."""
    mean, covariance = joint(CHAIN, -0.4)
    z = torch.randn(4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for t in (1, 2, 3):
        across, above = covariance[t - 1, t:], covariance[t:, t:]
        gain = torch.linalg.solve(above, across)
        q = CHAIN.reverse(t, z[t].reshape(1, 1), torch.full((1, 1), -0.4, dtype=torch.float64))
        torch.testing.assert_close(q.mean.item(), (mean[t - 1] + gain @ (z[t:] - mean[t:])).item())
        variance = covariance[t - 1, t - 1] - gain @ across
        torch.testing.assert_close((2 * q.log_std).exp().item(), variance.item())


def sigma_points(count: int) -> tuple[Tensor, Tensor]:
    """Points (N, count) and weights with the mean and covariance of N(0, I): for quadratics."""
    axes = math.sqrt(count) * torch.eye(count, dtype=torch.float64)
    points = torch.cat([axes, -axes])
    return points, torch.full((2 * count,), 1 / (2 * count), dtype=torch.float64)


STATIONARY = MarkovEncoder(CHAIN.scales, 1 - CHAIN.scales.square())
"""A chain that keeps N(0, 1) data N(0, 1), so that it runs upwards as it runs downwards."""

ENTROPY = 0.5 * math.log(math.tau * math.e)


def step_of(t: int, z: Tensor) -> Gaussian:
    """One step of STATIONARY from ``z``, up or down: N(a_t z, 1 - a_t^2)."""
    log_std = 0.5 * STATIONARY.variances[t].log()
    return Gaussian(STATIONARY.scales[t] * z, log_std.expand_as(z))


def expected_bound(error: float) -> float:
    """E over x ~ N(0, 1) of the bound, with the exact decoder's means moved by ``error``.

    The terms are quadratic in x and the noises, so that x = +-1 and sigma points are enough.
    """
    points, weights = sigma_points(4)

    def decoder(t: int, z: Tensor) -> Gaussian:
        p = step_of(t, z)
        return Gaussian(p.mean + error, p.log_std)

    total = 0.0
    for value in (-1.0, 1.0):
        x = torch.full((len(points), 1), value, dtype=torch.float64)
        noises = [column[:, None] for column in points.unbind(1)]
        bound = markov_bound(
            x, STATIONARY, decoder, lambda z_0, x=x: step_of(0, z_0).log_prob(x), noises
        )
        assert bound.terms.levels.shape == (len(points), 3)
        assert (bound.terms.levels >= 0).all()
        total += (weights * bound.terms.total).sum().item() / 2
    return total


def test_the_bound_of_linear_gaussian_data_is_the_entropy_with_the_exact_decoder_else_more() -> (
    None
):
    """Each level then adds error^2 / (2 v_t), the divergence of two Gaussians of one variance."""
    assert expected_bound(0.0) == pytest.approx(ENTROPY, abs=1e-12)
    excess = sum(0.5 * 0.2**2 / v for v in STATIONARY.variances[1:].tolist())
    assert expected_bound(0.2) == pytest.approx(ENTROPY + excess, abs=1e-12)


def test_the_two_variable_form_of_the_consistency_term_is_not_the_bound() -> None:
    """Luo 2022, equation 45, has E KL(q(z_t | z_{t-1}) || p(z_t | z_{t+1})) over both neighbours.

    That draws z_t anew, without regard to the z_{t+1} which came from it. For N(0, 1) data, two
    latents, steps N(a z, 1 - a^2) and the exact decoder the bound is the entropy, by the test
    above; with equation 45's term in place of the log ratio it is a^2 more.
    """
    a = 0.8
    log_std = torch.full((1, 1), 0.5 * math.log(1 - a**2), dtype=torch.float64)
    points, weights = sigma_points(3)
    x, e_1, e_2 = points.T[..., None]  # all of E x^2, E e^2 and their products
    z_1 = a * x + log_std.exp() * e_1
    z_2 = a * z_1 + log_std.exp() * e_2

    def step(z: Tensor) -> Gaussian:
        return Gaussian(a * z, log_std.expand_as(z))

    reconstruction = -step(z_1).log_prob(x)
    prior = step(z_1).kl(Gaussian(torch.zeros_like(x), torch.zeros_like(x)))
    log_ratio = step(x).log_prob(z_1) - step(z_2).log_prob(z_1)
    right = (weights * (reconstruction + prior + log_ratio)).sum().item()
    printed = (weights * (reconstruction + prior + step(x).kl(step(z_2)))).sum().item()
    assert right == pytest.approx(ENTROPY, abs=1e-12)
    assert printed == pytest.approx(ENTROPY + a**2, abs=1e-12)


SCHEDULES: dict[str, Schedule] = {
    "linear": LinearSchedule(-9.0, 4.0),
    "cosine": CosineSchedule(),
    "monotone": MonotoneSchedule(units=16),
}


class Convolution(nn.Module):
    """A network that is far from optimal."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        shift = 0.01 * gamma if labels is None else 0.01 * gamma + labels
        answer: Tensor = self.conv(z) + shift[:, None, None, None]
        return answer


@pytest.mark.parametrize("prediction", get_args(Prediction))
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 10, 50])
def test_the_markov_bound_of_a_vdm_is_its_own_discrete_bound_term_by_term(
    steps: int, schedule: str, prediction: Prediction
) -> None:
    """At each level of one path z_T, ..., z_0: the divergence of two Gaussians that Bayes' rule
    made of single steps equals 1/2 expm1(gamma_t - gamma_s) |epsilon - epsilon_hat|^2 as training
    computes it; and the prior and reconstruction terms are the same numbers.
    """
    generator = torch.Generator().manual_seed(steps)
    images = torch.randint(0, 256, (3, 2, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([0, 1, -1])
    noises = torch.randn(steps + 1, *images.shape, generator=generator, dtype=torch.float64)
    vdm = VDM(Convolution(), SCHEDULES[schedule], steps=steps, prediction=prediction).double()
    with torch.no_grad():
        terms, latents = vdm_markov_bound(vdm, images, labels, noises=[*noises])
        x = encode(images, 256, torch.float64)

        def noise_of(i: int) -> Tensor:
            """epsilon of the latent at time i / T."""
            t = torch.tensor([i / steps], dtype=torch.float64)
            alpha, sigma = alpha_sigma(vdm.schedule(t).gamma, like=x)
            return (latents[steps - i] - alpha * x) / sigma

        for i in range(1, steps + 1):
            times = torch.full((3,), (i - 0.5) / steps, dtype=torch.float64)
            own = vdm(images, labels, times=times, noise=noise_of(i), noise_0=noise_of(0))
            torch.testing.assert_close(terms.levels[:, i - 1], own.diffusion / steps, **CLOSE)
    torch.testing.assert_close(terms.prior, own.prior, **CLOSE)
    torch.testing.assert_close(terms.reconstruction, own.reconstruction, **CLOSE)


CLOSE = {"rtol": 1e-6, "atol": 1e-9}


def test_the_forward_process_by_single_steps_is_the_closed_form() -> None:
    """Marginals N(alpha_t x, sigma_t^2) and posteriors, to T = 1000 steps."""
    gammas = torch.linspace(-13.3, 5.0, 1001, dtype=torch.float64)
    encoder = vdm_encoder(gammas)
    alpha, sigma = alpha_sigma(gammas)
    torch.testing.assert_close(encoder.total_scales, alpha, rtol=1e-9, atol=0)
    torch.testing.assert_close(encoder.total_variances, sigma.square(), rtol=1e-9, atol=0)
    z, x = torch.randn(2, 5, 1, dtype=torch.float64)
    for t in (1, 500, 1000):
        q = posterior(*(broadcast(gammas[k], x) for k in (t - 1, t)))
        reverse = encoder.reverse(t, z, x)
        torch.testing.assert_close(reverse.mean, q.from_z * z + q.from_x * x, **CLOSE)
        torch.testing.assert_close(reverse.log_std.exp(), q.std.expand_as(z), **CLOSE)


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="positive variances"):
        MarkovEncoder(torch.ones(3), torch.tensor([1.0, 0.0, 1.0]))
    images = torch.zeros(1, 2, 4, 4, dtype=torch.uint8)
    noise = torch.zeros(1, 2, 4, 4)
    with pytest.raises(ValueError, match="1 noises"):
        vdm_markov_bound(VDM(Convolution(), LinearSchedule()), images, noises=[noise])
    per_pixel = VDM(Convolution(), MultivariateSchedule((2, 4, 4)))
    with pytest.raises(ValueError, match="vdm_markov_bound"):
        vdm_markov_bound(per_pixel, images, noises=[noise, noise])
