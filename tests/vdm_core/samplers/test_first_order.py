"""Ancestral sampling and DDIM against recursions in the posterior form of Ho et al. 2020 (6, 7)."""

import math
from dataclasses import replace

import pytest
import torch

from vdm_core import ClassifierFree
from vdm_core.guidance import Autoguidance, Classifier
from vdm_core.samplers import ancestral, ddim

EYE = torch.eye(4, dtype=torch.float64)


def grid(steps, gamma_0=-8.0, gamma_1=5.0):
    return torch.linspace(gamma_1, gamma_0, steps + 1, dtype=torch.float64)


def posterior_recursion(x_hat, gammas):
    """Mean and covariance of z_0 by Ho et al.'s posterior, x replaced by x_hat(gamma) = A z + b."""
    mean, covariance = torch.zeros(4, dtype=torch.float64), EYE
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


def assert_follows(offset, matrices, x_hat, gammas):
    mean, covariance = posterior_recursion(x_hat, gammas)
    torch.testing.assert_close(offset, mean, rtol=1e-9, atol=1e-12)
    actual = sum(matrix @ matrix.T for matrix in matrices)
    torch.testing.assert_close(actual, covariance, rtol=1e-9, atol=1e-12)


def test_ancestral_follows_the_linear_recursion(gaussian, affine_map):
    data, gammas = gaussian(0), grid(7)
    assert_follows(*affine_map(ancestral, data.epsilon_hat, gammas, 7), data.x_hat, gammas)


def combination(scale, one, other):
    """x_hat of scale epsilon_one + (1 - scale) epsilon_other: the same combination."""

    def x_hat(gamma):
        both = zip(one.x_hat(gamma), other.x_hat(gamma), strict=True)
        return [scale * a + (1 - scale) * b for a, b in both]

    return x_hat


@pytest.mark.parametrize("scale", [0.0, 1.0, 2.5])
def test_classifier_free_guided_sampling_follows_the_linear_recursion(scale, gaussian, affine_map):
    """Guidance samples a law of its own; this is that law, and not the tilted density."""
    one, null, gammas = gaussian(0), gaussian(1), grid(6)

    def denoiser(z, gamma, labels):
        of_class, of_none = (g.epsilon_hat(z, gamma, labels) for g in (one, null))
        return torch.where((labels == 0)[:, None, None, None], of_class, of_none)

    guided = ClassifierFree(scale)(denoiser)
    labels = torch.zeros(4, dtype=torch.int64)
    found = affine_map(ancestral, guided, gammas, 6, labels)
    assert_follows(*found, combination(scale, one, null), gammas)


def test_guided_samples_do_not_have_the_tilted_density(gaussian):
    """p(x|y)^w p(x)^(1-w) has the precision w P_y + (1 - w) P, which guided samples miss by far."""
    null, scale, gammas = gaussian(0), 2.0, grid(2000, -12.0, 12.0)
    one = replace(null, covariance=0.5 * null.covariance)
    precision = scale * one.covariance.inverse() + (1 - scale) * null.covariance.inverse()
    _, covariance = posterior_recursion(combination(scale, one, null), gammas)
    assert (covariance - precision.inverse()).norm() > 0.1 * precision.inverse().norm()


@pytest.mark.parametrize("scale", [0.5, 1.8])
def test_autoguided_sampling_follows_the_linear_recursion(scale, gaussian, affine_map):
    strong, weak, gammas = gaussian(0), gaussian(1), grid(6)
    guided = Autoguidance(weak.epsilon_hat, scale)(strong.epsilon_hat)
    found = affine_map(ancestral, guided, gammas, 6)
    assert_follows(*found, combination(scale, strong, weak), gammas)


def test_guidance_inside_an_interval_follows_the_recursion_of_both_parts(gaussian, affine_map):
    strong, weak, gammas = gaussian(0), gaussian(1), grid(8)
    interval = (gammas[5].item(), gammas[2].item())
    guided = Autoguidance(weak.epsilon_hat, 1.8, interval)(strong.epsilon_hat)

    def x_hat(gamma):
        inside = interval[0] <= gamma <= interval[1]
        return combination(1.8 if inside else 1.0, strong, weak)(gamma)

    assert_follows(*affine_map(ancestral, guided, gammas, 8), x_hat, gammas)


def test_an_exact_classifier_turns_the_mixture_into_the_class(gaussian, affine_map):
    """Bayes' rule: the score of p(z) plus that of p(y | z) is the score of p(z | y).

    The denoiser of the mixture and the classifier are nonlinear; guided at w = 1 they are the
    class's own linear denoiser, and sampling follows its recursion.
    """
    classes, gammas = [gaussian(0), gaussian(1)], grid(6)
    log_prior = torch.tensor([0.3, 0.7], dtype=torch.float64).log()

    def logits(z, gamma):
        joint = [g.log_prob(z, gamma[0].item()) for g in classes]
        return torch.stack(joint, dim=1) + log_prior

    def mixture(z, gamma, labels):
        weights = logits(z, z.new_full((len(z),), gamma)).softmax(1)
        each = torch.stack([g.epsilon_hat(z, gamma, labels) for g in classes], dim=1)
        return (weights[:, :, None, None, None] * each).sum(1)

    guided = Classifier(logits, 1.0)(mixture)
    labels = torch.ones(4, dtype=torch.int64)
    assert_follows(*affine_map(ancestral, guided, gammas, 6, labels), classes[1].x_hat, gammas)


def test_the_recursion_approaches_the_data_as_one_over_the_number_of_steps(gaussian):
    data, errors = gaussian(0), []
    truth = data.covariance / (1 + math.exp(-12)) + EYE / (1 + math.exp(12))
    for steps in (250, 500, 1000):
        _, covariance = posterior_recursion(data.x_hat, grid(steps, -12.0, 12.0))
        errors.append((covariance - truth).norm().item())
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.15)
    assert errors[1] / errors[2] == pytest.approx(2, abs=0.1)


def test_ddim_keeps_x_hat_and_epsilon_hat_over_a_step(gaussian, walk):
    data, gammas = gaussian(0), grid(1, -2.0, 1.0)
    z = torch.randn(3, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    gain, offset = data.x_hat(1.0)
    x = z @ gain.T + offset
    alpha, sigma = (torch.sigmoid(s * gammas).sqrt() for s in (-1, 1))
    expected = alpha[1] * x + sigma[1] * (z - alpha[0] * x) / sigma[0]
    torch.testing.assert_close(walk(ddim, data.epsilon_hat, z, gammas, None), expected)
