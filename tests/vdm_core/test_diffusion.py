"""The forward process and its posterior against closed forms and a second derivation."""

import torch
from torch import Tensor

from vdm_core.diffusion import alpha_sigma, broadcast, diffuse, posterior


def gamma_pairs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """gamma_s < gamma_t over [-15, 15], far apart and as close as one step in 100,000."""
    gamma_s = torch.linspace(-15, 14.9, 300)
    gaps = torch.tensor([2e-4, 0.02, 0.1, 1.0, 30.0])[:, None]
    gamma_t = (gamma_s + gaps).clamp(max=15.0)
    return gamma_s.expand_as(gamma_t).to(dtype), gamma_t.to(dtype)


def relative_error(value: Tensor, reference: Tensor) -> float:
    return float(((value.double() - reference) / reference).abs().max())


def test_alpha_and_sigma_are_right_to_1e_6_in_float32() -> None:
    gamma = torch.linspace(-15, 15, 2001)
    alpha, sigma = alpha_sigma(gamma)
    snr = torch.exp(-gamma.double())
    assert relative_error(alpha, (snr / (1 + snr)).sqrt()) < 1e-6
    assert relative_error(sigma, (1 / (1 + snr)).sqrt()) < 1e-6


def test_posterior_coefficients_are_right_to_1e_6_in_float32_even_for_tiny_steps() -> None:
    single, double = posterior(*gamma_pairs()), posterior(*(g.double() for g in gamma_pairs()))
    for value, reference in zip(single, double, strict=True):
        assert relative_error(value, reference) < 1e-6


def test_the_posterior_is_that_of_the_cumulative_product_notation() -> None:
    """Luo 2022, equation 84, with alpha_bar = sigmoid(-gamma), alpha_t their one-step ratio."""
    gamma_s, gamma_t = gamma_pairs(torch.float64)
    q = posterior(gamma_s, gamma_t)
    bar_s, bar_t = torch.sigmoid(-gamma_s), torch.sigmoid(-gamma_t)
    one_step = bar_t / bar_s
    torch.testing.assert_close(q.from_z, one_step.sqrt() * (1 - bar_s) / (1 - bar_t))
    torch.testing.assert_close(
        q.from_x, bar_s.sqrt() * (1 - one_step) / (1 - bar_t), rtol=1e-6, atol=1e-9
    )
    torch.testing.assert_close(
        q.std.square(), (1 - one_step) * (1 - bar_s) / (1 - bar_t), rtol=1e-6, atol=1e-9
    )


def test_the_posterior_mean_in_epsilon_is_the_papers() -> None:
    """mu = (alpha_s / alpha_t) (z_t - c sigma_t epsilon), Kingma et al. 2021, appendix A."""
    gamma_s, gamma_t = gamma_pairs(torch.float64)
    x, epsilon = torch.randn(2, *gamma_s.shape, dtype=torch.float64)
    (alpha_s, _), (alpha_t, sigma_t) = alpha_sigma(gamma_s), alpha_sigma(gamma_t)
    z = alpha_t * x + sigma_t * epsilon
    c = -torch.expm1(gamma_s - gamma_t)
    q = posterior(gamma_s, gamma_t)
    torch.testing.assert_close(
        q.from_z * z + q.from_x * x, alpha_s / alpha_t * (z - c * sigma_t * epsilon)
    )


def test_a_step_of_the_posterior_after_q_of_t_gives_q_of_s() -> None:
    """Conservation: integrating z_t out of q(z_s | z_t, x) q(z_t | x) leaves q(z_s | x)."""
    gamma_s, gamma_t = gamma_pairs(torch.float64)
    q = posterior(gamma_s, gamma_t)
    (alpha_s, sigma_s), (alpha_t, sigma_t) = alpha_sigma(gamma_s), alpha_sigma(gamma_t)
    torch.testing.assert_close(q.from_z * alpha_t + q.from_x, alpha_s)
    torch.testing.assert_close((q.from_z * sigma_t).square() + q.std.square(), sigma_s.square())


def test_diffuse_scales_data_and_noise_by_each_examples_gamma() -> None:
    x, noise = torch.randn(2, 5, 3, 4, 4)
    gamma = torch.linspace(-15, 15, 5)
    noised = diffuse(x, gamma, noise)
    assert noised.gamma is gamma
    assert noised.noise is noise
    for i, (alpha, sigma) in enumerate(zip(*alpha_sigma(gamma), strict=True)):
        torch.testing.assert_close(noised.z[i], alpha * x[i] + sigma * noise[i])


def test_gamma_may_also_be_given_per_pixel() -> None:
    x, noise = torch.randn(2, 2, 1, 3, 3)
    per_example = torch.tensor([-1.0, 2.0])
    per_pixel = broadcast(per_example, x).expand_as(x)
    assert torch.equal(diffuse(x, per_pixel, noise).z, diffuse(x, per_example, noise).z)
