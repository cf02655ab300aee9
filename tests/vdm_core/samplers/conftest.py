"""With a linear denoiser a sampler is an affine map of its noises, known in closed form.

For data from N(mean, S) the optimal epsilon_hat is linear in z. So each sampler can be run on basis
vectors in place of noise, and the matrices that come out compared with closed forms in float64.
"""

import math
from dataclasses import dataclass

import pytest
import torch

DIMS = 4
EYE = torch.eye(DIMS, dtype=torch.float64)


@dataclass(frozen=True)
class Gaussian:
    """N(mean, covariance) in DIMS dimensions, and its exact denoiser."""

    mean: torch.Tensor
    covariance: torch.Tensor

    def marginal(self, gamma):
        """Mean and covariance of z at this gamma."""
        alpha2, sigma2 = 1 / (1 + math.exp(gamma)), 1 / (1 + math.exp(-gamma))
        return math.sqrt(alpha2) * self.mean, alpha2 * self.covariance + sigma2 * EYE

    def x_hat(self, gamma):
        """E[x | z] = A z + b: A, b."""
        mean, covariance = self.marginal(gamma)
        alpha = math.sqrt(1 / (1 + math.exp(gamma)))
        gain = alpha * self.covariance @ torch.linalg.inv(covariance)
        return gain, self.mean - gain @ mean

    def epsilon_hat(self, z, gamma, labels):
        """E[epsilon | z] for z (B, 1, 1, DIMS)."""
        gain, offset = self.x_hat(gamma)
        alpha, sigma = math.sqrt(1 / (1 + math.exp(gamma))), math.sqrt(1 / (1 + math.exp(-gamma)))
        return (z - alpha * (z @ gain.to(z.dtype).T + offset.to(z.dtype))) / sigma

    def flow(self, gamma_t, gamma_s):
        """The probability flow from gamma_t to gamma_s as an affine map: offset, matrix.

        All marginals have S's eigenvectors, along which the flow keeps the number of standard
        deviations from the mean.
        """
        (mean_t, cov_t), (mean_s, cov_s) = self.marginal(gamma_t), self.marginal(gamma_s)
        _, vectors = torch.linalg.eigh(self.covariance)
        ratio = ((vectors.T @ cov_s @ vectors).diag() / (vectors.T @ cov_t @ vectors).diag()).sqrt()
        matrix = vectors @ ratio.diag() @ vectors.T
        return mean_s - matrix @ mean_t, matrix

    def log_prob(self, z, gamma):
        """log q(z) at this gamma, (B,), differentiable in z (B, 1, 1, DIMS)."""
        law = torch.distributions.MultivariateNormal(*self.marginal(gamma))
        return law.log_prob(z.flatten(1))


@pytest.fixture
def gaussian():
    """seed -> a Gaussian with correlated dimensions."""

    def draw(seed):
        generator = torch.Generator().manual_seed(seed)
        root = torch.randn(DIMS, DIMS, generator=generator, dtype=torch.float64)
        mean = torch.randn(DIMS, generator=generator, dtype=torch.float64)
        return Gaussian(0.3 * mean, 0.2 * root @ root.T + 0.05 * EYE)

    return draw


def run(sampler, denoiser, z, gammas, noise, labels=None):
    *_, z_0 = sampler(denoiser, z.reshape(-1, 1, 1, DIMS), labels, gammas, noise)
    return z_0.reshape(-1, DIMS)


@pytest.fixture
def affine_map():
    """sampler, denoiser, gammas, draws -> offset, matrices of z_1 and of each draw of noise.

    z_0 = offset + M_1 z_1 + sum_k M_k noise_k, found by one basis vector at a time. With no draws,
    the sampler must not ask for noise.
    """

    def find(sampler, denoiser, gammas, draws, labels=None):
        quiet = torch.zeros(DIMS, 1, 1, DIMS, dtype=torch.float64)
        basis = EYE.reshape(DIMS, 1, 1, DIMS)

        def response(z, loud):
            def noise(k):
                assert k < draws, f"draw {k} of {draws}"
                return basis if k == loud else quiet

            return run(sampler, denoiser, z, gammas, noise, labels)

        offset = response(quiet, None)
        rows = [response(basis, None) - offset]
        rows += [response(quiet, k) - offset for k in range(draws)]
        return offset[0], [row.T for row in rows]

    return find


@pytest.fixture
def walk():
    """`run`: sampler, denoiser, z (B, DIMS), gammas, noise -> z_0 (B, DIMS)."""
    return run
