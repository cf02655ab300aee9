"""With a linear denoiser a sampler is an affine map of its noises, known in closed form.

For data from N(mean, S) the optimal epsilon_hat is linear in z. So each sampler is run on basis
vectors in place of noise, and the matrices that come out are compared with a recursion written
down here from the posterior in the form of Ho et al. 2020, equations 6 and 7, in float64.
"""

import math
from dataclasses import dataclass

import pytest
import torch

from vdm_core import ClassifierFree
from vdm_core.samplers import ancestral, ddim

DIMS = 4
EYE = torch.eye(DIMS, dtype=torch.float64)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance) in DIMS dimensions, and its exact denoiser."""

    mean: torch.Tensor
    covariance: torch.Tensor

    def x_hat(self, gamma):
        """E[x | z] = A z + b for a gamma (a float): A, b."""
        alpha2, sigma2 = 1 / (1 + math.exp(gamma)), 1 / (1 + math.exp(-gamma))
        marginal = alpha2 * self.covariance + sigma2 * EYE
        gain = math.sqrt(alpha2) * self.covariance @ torch.linalg.inv(marginal)
        return gain, self.mean - math.sqrt(alpha2) * gain @ self.mean

    def epsilon_hat(self, z, gamma, labels):
        """E[epsilon | z] for z (B, 1, 1, DIMS) and gamma (B,), all alike."""
        gain, offset = self.x_hat(gamma[0].item())
        alpha, sigma = torch.sigmoid(-gamma[0]).sqrt(), torch.sigmoid(gamma[0]).sqrt()
        return (z - alpha * (z @ gain.to(z.dtype).T + offset.to(z.dtype))) / sigma


def gaussian(seed):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(DIMS, DIMS, generator=generator, dtype=torch.float64)
    mean = torch.randn(DIMS, generator=generator, dtype=torch.float64)
    return Gaussian(0.3 * mean, 0.2 * root @ root.T + 0.05 * EYE)


def grid(steps, gamma_0=-8.0, gamma_1=5.0):
    return torch.linspace(gamma_1, gamma_0, steps + 1, dtype=torch.float64)


def run(sampler, denoiser, z, gammas, noise, labels=None):
    *_, z_0 = sampler(denoiser, z.reshape(-1, 1, 1, DIMS), labels, gammas, noise)
    return z_0.reshape(-1, DIMS)


def affine_map(sampler, denoiser, gammas, labels=None):
    """z_0 = offset + M_init z_1 + sum_k M_k noise_k, by one basis vector at a time."""
    quiet = torch.zeros(DIMS, 1, 1, DIMS, dtype=torch.float64)
    basis = EYE.reshape(DIMS, 1, 1, DIMS)

    def response(z, loud):
        return run(sampler, denoiser, z, gammas, lambda k: basis if k == loud else quiet, labels)

    offset = response(quiet, None)
    rows = [response(basis, None) - offset]
    rows += [response(quiet, k) - offset for k in range(len(gammas) - 1)]
    return offset[0], [row.T for row in rows]


def posterior_recursion(x_hat, gammas):
    """Mean and covariance of z_0 by Ho et al.'s posterior, x replaced by x_hat(gamma) = A z + b."""
    mean, covariance = torch.zeros(DIMS, dtype=torch.float64), EYE
    for gamma_t, gamma_s in zip(gammas[:-1].tolist(), gammas[1:].tolist(), strict=True):
        bar_t, bar_s = 1 / (1 + math.exp(gamma_t)), 1 / (1 + math.exp(gamma_s))
        step = bar_t / bar_s
        from_z = math.sqrt(step) * (1 - bar_s) / (1 - bar_t)
        from_x = math.sqrt(bar_s) * (1 - step) / (1 - bar_t)
        gain, offset = x_hat(gamma_t)
        matrix = from_z * EYE + from_x * gain
        mean = matrix @ mean + from_x * offset
        variance = (1 - step) * (1 - bar_s) / (1 - bar_t)
        covariance = matrix @ covariance @ matrix.T + variance * EYE
    return mean, covariance


def moments(offset, matrices):
    return offset, sum(matrix @ matrix.T for matrix in matrices)


def test_ancestral_follows_the_linear_recursion():
    data, gammas = gaussian(0), grid(7)
    mean, covariance = moments(*affine_map(ancestral, data.epsilon_hat, gammas))
    expected_mean, expected_covariance = posterior_recursion(data.x_hat, gammas)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(covariance, expected_covariance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_guided_ancestral_follows_the_linear_recursion_of_the_guided_denoiser(scale):
    """Guidance samples a law of its own; this is that law, and not the tilted density."""
    one, null, gammas = gaussian(0), gaussian(1), grid(6)

    def denoiser(z, gamma, labels):
        of_class, of_none = (g.epsilon_hat(z, gamma, labels) for g in (one, null))
        return torch.where((labels == 0)[:, None, None, None], of_class, of_none)

    def x_hat(gamma):
        both = zip(one.x_hat(gamma), null.x_hat(gamma), strict=True)
        return [scale * conditional + (1 - scale) * other for conditional, other in both]

    guided = ClassifierFree(scale)(denoiser)
    labels = torch.zeros(DIMS, dtype=torch.int64)
    mean, covariance = moments(*affine_map(ancestral, guided, gammas, labels))
    expected_mean, expected_covariance = posterior_recursion(x_hat, gammas)
    torch.testing.assert_close(mean, expected_mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(covariance, expected_covariance, rtol=1e-9, atol=1e-12)


def test_the_recursion_approaches_the_data_as_one_over_the_number_of_steps():
    data, errors = gaussian(0), []
    truth = data.covariance / (1 + math.exp(-12)) + EYE / (1 + math.exp(12))
    for steps in (250, 500, 1000):
        gammas = grid(steps, gamma_0=-12.0, gamma_1=12.0)
        _, covariance = posterior_recursion(data.x_hat, gammas)
        errors.append((covariance - truth).norm().item())
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def test_ddim_approaches_the_probability_flow_as_one_over_the_number_of_steps():
    """Along an eigenvector of variance s the flow scales z by the ratio of standard deviations."""
    variance = torch.tensor([0.05, 0.3, 1.0, 2.0], dtype=torch.float64)
    data, errors = Gaussian(torch.zeros(DIMS).double(), torch.diag(variance)), []

    def deviation(gamma):
        return (variance * torch.sigmoid(-gamma) + torch.sigmoid(gamma)).sqrt()

    for steps in (100, 200, 400):
        gammas = grid(steps)
        _, (matrix, *_) = affine_map_without_noise(data.epsilon_hat, gammas)
        exact = torch.diag(deviation(gammas[-1]) / deviation(gammas[0]))
        errors.append((matrix - exact).norm().item())
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.05)


def affine_map_without_noise(denoiser, gammas):
    """As `affine_map`, for a sampler that must not ask for noise."""

    def none_left(step):
        raise AssertionError("a deterministic sampler asked for noise")

    offset = run(ddim, denoiser, torch.zeros(DIMS, DIMS).double(), gammas, none_left)
    return offset[0], [(run(ddim, denoiser, EYE, gammas, none_left) - offset).T]


@pytest.mark.parametrize("sampler", [ancestral, ddim])
def test_float32_sampling_stays_with_float64_over_a_thousand_steps(sampler):
    data, gammas = gaussian(0), grid(1000, gamma_0=-13.3)
    generator = torch.Generator().manual_seed(0)
    noises = torch.randn(1001, 8, 1, 1, DIMS, generator=generator)

    def walk(dtype):
        noise = noises.to(dtype)
        return run(sampler, data.epsilon_hat, noise[1000], gammas, lambda k: noise[k])

    torch.testing.assert_close(walk(torch.float32).double(), walk(torch.float64), rtol=0, atol=3e-5)


def test_samplers_yield_one_latent_per_step():
    data, z = gaussian(0), torch.zeros(2, 1, 1, DIMS, dtype=torch.float64)
    for sampler in (ancestral, ddim):
        assert len(list(sampler(data.epsilon_hat, z, None, grid(5), lambda k: z))) == 5
