"""The profile of the loss over gamma: its integral, its standard errors, its values."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vdm_core import VDM, LinearSchedule, MultivariateSchedule
from vdm_core.likelihood import (
    continuous_bound,
    error_profile,
    estimate,
    profile,
    profile_loss,
)


def test_the_profile_integrates_to_the_diffusion_loss(one_pixel: VDM, eight_levels: Tensor) -> None:
    indices = torch.arange(len(eight_levels))
    gammas = torch.linspace(-5, 12, 69, dtype=torch.float64)
    errors = error_profile(one_pixel, eight_levels, indices, gammas=gammas)
    integral = estimate(profile_loss(gammas, errors))
    loss = estimate(continuous_bound(one_pixel, eight_levels, indices, draws=20, seed=1).diffusion)
    tolerance = 4 * math.hypot(integral.standard_error, loss.standard_error)
    assert tolerance < 0.1
    assert abs(integral.mean - loss.mean) < tolerance


def test_the_profile_of_a_network_that_answers_zero_is_the_chi_squared_of_the_noise() -> None:
    class Zero(nn.Module):
        def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
            return torch.zeros_like(z)

    images, indices = torch.zeros(3000, 1, 2, 4, dtype=torch.uint8), torch.arange(3000)
    gammas = torch.tensor([-3.0, 0.0, 5.0])
    errors = error_profile(VDM(Zero(), LinearSchedule()), images, indices, gammas=gammas)
    assert errors.shape == (3000, 3)
    assert torch.corrcoef(errors.T).fill_diagonal_(0).abs().max() < 0.08
    table = profile(gammas, errors, dims=8)
    mean, error = table.error
    assert ((mean - 8).abs() < 4 * error).all()
    torch.testing.assert_close(error, torch.full((3,), math.sqrt(16 / 3000)), rtol=0.1, atol=0)
    for got, nats in zip(table.integrand, table.error, strict=True):
        torch.testing.assert_close(got, nats / (16 * math.log(2)))


def test_the_standard_error_is_that_of_a_bootstrap(one_pixel: VDM, eight_levels: Tensor) -> None:
    indices = torch.arange(len(eight_levels))
    gammas = torch.linspace(-2, 4, 9)
    losses = profile_loss(gammas, error_profile(one_pixel, eight_levels, indices, gammas=gammas))
    rng = np.random.default_rng(0)
    resampled = rng.choice(losses.numpy(), size=(2000, len(losses))).mean(1)
    assert estimate(losses).standard_error == pytest.approx(resampled.std(), rel=0.06)


def test_rows_of_several_batches_are_those_of_one(convolution: nn.Module, images: Tensor) -> None:
    vdm, gammas = VDM(convolution, LinearSchedule()).double(), torch.tensor([-1.0, 1.0])
    indices = torch.tensor([5, 0, 2, 9, 100, 7])
    whole = error_profile(vdm, images, indices, gammas=gammas)
    parts = [
        error_profile(vdm, images[i], indices[i], gammas=gammas) for i in ([0, 1], [2, 3, 4, 5])
    ]
    torch.testing.assert_close(torch.cat(parts), whole)


def test_wrong_input_is_an_error_that_names_it(convolution: nn.Module, images: Tensor) -> None:
    vdm, indices = VDM(convolution, LinearSchedule()), torch.arange(6)
    for gammas in ([1.0, 0.0], [0.0, 0.0], [0.0, math.nan], [0.0], [0.0, math.inf]):
        with pytest.raises(ValueError, match="gammas"):
            error_profile(vdm, images, indices, gammas=torch.tensor(gammas))
    with pytest.raises(ValueError, match="needs 2 or more"):
        estimate(torch.zeros(1))
    maps = VDM(convolution, MultivariateSchedule((2, 4, 4)))
    with pytest.raises(ValueError, match="error_profile needs one gamma"):
        error_profile(maps, images, indices, gammas=torch.tensor([0.0, 1.0]))
