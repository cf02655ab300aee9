"""Importance weights against the likelihood itself, by quadrature, and against the ELBO."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdm_core import VDM, AdaptiveSchedule, LinearSchedule, MultivariateSchedule, Schedule
from vdm_core.likelihood import (
    discrete_bound,
    estimate,
    importance_weighted,
    importance_weighted_bound,
)

STEPS = 3


def test_the_bound_of_known_weights_includes_minus_log_k() -> None:
    log_weights = torch.tensor([[-1.0, -700.0], [-2.0, -701.0], [-4.0, -800.0]]).double()
    weights = torch.tensor([math.exp(-1) + math.exp(-2) + math.exp(-4), 1 + math.exp(-1)]).double()
    expected = -(weights / 3).log() + torch.tensor([0.0, 700.0])
    torch.testing.assert_close(importance_weighted(log_weights), expected)
    equal = torch.full((5, 2), -3.0)
    torch.testing.assert_close(importance_weighted(equal), torch.full((2,), 3.0))


def true_nll(vdm: VDM, level: int) -> float:
    """-log p(level) of a one-pixel model at T = STEPS: each z in turn integrated on a grid."""
    z = torch.linspace(-6, 6, 1601, dtype=torch.float64)
    width = z[1] - z[0]
    density = torch.exp(-0.5 * z.square()) / math.sqrt(math.tau)
    gammas = torch.linspace(12.0, -5.0, STEPS + 1, dtype=torch.float64)
    for gamma_t, gamma_s in itertools.pairwise(gammas):
        epsilon = vdm.network(z.view(-1, 1, 1, 1), gamma_t.expand(len(z))).flatten()
        c = 1 - torch.exp(gamma_s - gamma_t)
        ratio = ((1 + gamma_t.exp()) / (1 + gamma_s.exp())).sqrt()
        mean = ratio * (z - c * gamma_t.sigmoid().sqrt() * epsilon)
        std = (gamma_s.sigmoid() * c).sqrt()
        kernel = torch.exp(-0.5 * ((z[:, None] - mean) / std).square()) / (std * math.tau**0.5)
        density = kernel @ density * width
    levels = (2 * torch.arange(8, dtype=torch.float64) + 1) / 8 - 1
    scaled = z * (1 + gammas[-1].exp()).sqrt()
    logits = -0.5 * torch.exp(-gammas[-1]) * (scaled[:, None] - levels).square()
    return -(density * logits.softmax(-1)[:, level]).sum().mul(width).log().item()


def test_the_bound_falls_towards_the_likelihood_with_more_draws_and_stays_above(
    one_pixel: VDM,
) -> None:
    level, truth = 6, true_nll(one_pixel, 6)
    images = torch.full((3000, 1, 1, 1), level, dtype=torch.uint8)
    indices = torch.arange(len(images))
    estimates = [
        estimate(importance_weighted_bound(one_pixel, images, indices, steps=STEPS, draws=draws))
        for draws in (1, 4, 64)
    ]
    for few, many in itertools.pairwise(estimates):
        assert many.mean < few.mean - 2 * few.standard_error
    assert truth < estimates[-1].mean < truth + 0.5
    elbo = estimate(discrete_bound(one_pixel, images, indices, steps=STEPS, seed=1).total)
    tolerance = 4 * math.hypot(elbo.standard_error, estimates[0].standard_error)
    assert abs(elbo.mean - estimates[0].mean) < tolerance


def test_the_mean_weight_is_the_likelihood(one_pixel: VDM) -> None:
    """E[w] = p(x) exactly, whatever the number of steps and draws."""
    images = torch.full((20_000, 1, 1, 1), 2, dtype=torch.uint8)
    indices = torch.arange(len(images))
    weights = (
        importance_weighted_bound(one_pixel, images, indices, steps=STEPS, draws=1).neg().exp()
    )
    mean, error = estimate(weights)
    assert error < 0.02 * mean
    assert abs(mean - math.exp(-true_nll(one_pixel, 2))) < 4 * error


@pytest.mark.parametrize(
    "make",
    [
        lambda: MultivariateSchedule((2, 4, 4)),
        lambda: AdaptiveSchedule((2, 4, 4), latent_dim=3, width=4),
    ],
    ids=["multivariate", "adaptive"],
)
def test_one_draw_averages_to_the_elbo_with_a_gamma_for_each_pixel_too(
    make: Callable[[], Schedule], convolution: nn.Module, images: Tensor
) -> None:
    torch.manual_seed(0)
    schedule = make()
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    vdm = VDM(convolution, schedule).double()
    many, indices = images[:1].expand(2000, 2, 4, 4), torch.arange(2000)
    weighted = estimate(importance_weighted_bound(vdm, many, indices, steps=2, draws=1))
    elbo = estimate(discrete_bound(vdm, many, indices, steps=2, seed=1).total)
    tolerance = 4 * math.hypot(elbo.standard_error, weighted.standard_error)
    assert abs(elbo.mean - weighted.mean) < tolerance


def test_wrong_input_is_an_error_that_names_it(convolution: nn.Module, images: Tensor) -> None:
    vdm, indices = VDM(convolution, LinearSchedule()), torch.arange(6)
    with pytest.raises(ValueError, match="draws is 0"):
        importance_weighted_bound(vdm, images, indices, steps=2, draws=0)
    with pytest.raises(ValueError, match="steps is 0"):
        importance_weighted_bound(vdm, images, indices, steps=0, draws=2)
    with pytest.raises(ValueError, match=r"log_weights have shape \(0, 2\)"):
        importance_weighted(torch.zeros(0, 2))
