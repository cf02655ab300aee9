"""The probability-flow ODE's likelihood against closed forms for Gaussian data."""

import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import MultivariateNormal

from vdm_core import VDM, LinearSchedule, MultivariateSchedule
from vdm_core.likelihood import DormandPrince, RungeKutta4, estimate, ode_log_density, ode_nll

FINE = DormandPrince(1e-10, 1e-10)


@pytest.mark.parametrize("gamma_1", [0.0, 5.0])
def test_the_log_density_is_the_closed_form(gaussian: Any, gamma_1: float) -> None:
    """Also where z_1 is far from N(0, I): it is the density of what the ODE transports."""
    y = gaussian.sample(20)
    got = ode_log_density(gaussian, y, gamma_0=-13.3, gamma_1=gamma_1, solver=FINE)
    expected = gaussian.ode_log_density(y, -13.3, gamma_1)
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-8)


def test_from_pure_noise_it_is_the_density_of_the_data(gaussian: Any) -> None:
    y = gaussian.sample(20)
    got = ode_log_density(
        gaussian, y, gamma_0=-13.3, gamma_1=40.0, solver=DormandPrince(1e-8, 1e-8)
    )
    covariance = gaussian.axes * (gaussian.variances + math.exp(-13.3)) @ gaussian.axes.T
    expected = MultivariateNormal(gaussian.mean, covariance).log_prob(y.flatten(1))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("solver", "tolerance"),
    [(DormandPrince(), 1e-3), (DormandPrince(1e-6, 1e-6), 1e-4), (RungeKutta4(128), 5e-5)],
)
def test_in_float32_it_is_right_to_a_fraction_of_a_millinat(
    gaussian: Any, solver: Any, tolerance: float
) -> None:
    y = gaussian.sample(20).float()
    got = ode_log_density(gaussian.float(), y, gamma_0=-13.3, gamma_1=5.0, solver=solver)
    expected = gaussian.double().ode_log_density(y.double(), -13.3, 5.0)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), expected, rtol=0, atol=tolerance)


def test_hutchinsons_estimate_averaged_over_all_its_probes_is_exact(gaussian: Any) -> None:
    """All 16 sign vectors of four pixels; the drift of Gaussian data is linear, so that the mean
    over the probes of the whole solve is the exact divergence's."""
    y, solver = gaussian.sample(1), RungeKutta4(32)
    ends = {"gamma_0": -8.0, "gamma_1": 5.0, "solver": solver}
    probes = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4))).double()
    estimates = ode_log_density(
        gaussian, y.expand(16, 1, 2, 2), probe=probes.view(16, 1, 2, 2), **ends
    )
    exact = ode_log_density(gaussian, y, **ends)
    assert estimates.std() > 0.05
    torch.testing.assert_close(estimates.mean(0, keepdim=True), exact, rtol=0, atol=1e-10)


class OneGaussianPixel(nn.Module):
    """The optimal epsilon_hat for y ~ N(0.1, 0.2^2)."""

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = (torch.sigmoid(s * gamma).sqrt()[:, None, None, None] for s in (-1, 1))
        return sigma * (z - 0.1 * alpha) / (0.04 * alpha.square() + sigma.square())


def pixel_vdm() -> VDM:
    return VDM(OneGaussianPixel(), LinearSchedule(-6.0, 25.0, learned=False), levels=8).double()


def bin_nll(level: int) -> float:
    """-log of the mass of the level's bin under N(0.1, 0.2^2 + exp(-6))."""
    spread = math.sqrt(2 * (0.04 + math.exp(-6.0)))
    low, high = ((2 * level + side) / 8 - 1 for side in (0, 2))
    return -math.log((math.erf((high - 0.1) / spread) - math.erf((low - 0.1) / spread)) / 2)


@pytest.mark.parametrize("kind", ["uniform", "truncated_normal"])
def test_the_bound_falls_to_the_mass_of_the_bin_with_more_dequantisations(kind: Any) -> None:
    level = 6
    images, indices = torch.full((150, 1, 1, 1), level, dtype=torch.uint8), torch.arange(150)
    estimates = [
        estimate(
            ode_nll(
                pixel_vdm(),
                images,
                indices,
                dequantisation=kind,
                divergence="exact",
                draws=draws,
                solver=RungeKutta4(32),
            )
        )
        for draws in (1, 4, 16)
    ]
    one, four, many = (e.mean - bin_nll(level) for e in estimates)
    assert one > four > many > 0
    assert many < 0.2 * one


@pytest.mark.parametrize("divergence", ["rademacher", "gaussian"])
def test_an_estimated_divergence_has_the_right_mean(divergence: Any, gaussian: Any) -> None:
    vdm = VDM(gaussian, LinearSchedule(-6.0, 5.0), levels=8).double()
    images = torch.tensor([5, 3, 4, 4]).byte().view(1, 1, 2, 2).expand(1000, 1, 2, 2)
    indices = torch.arange(1000)
    solver = RungeKutta4(24)
    exact = ode_nll(vdm, images, indices, divergence="exact", solver=solver)
    guess = ode_nll(vdm, images, indices, divergence=divergence, solver=solver)
    mean, error = estimate(guess - exact)
    assert 0 < error < 0.5
    assert abs(mean) < 4 * error


def test_the_probe_is_drawn_once_for_a_solve_and_belongs_to_the_index(gaussian: Any) -> None:
    """The same figure twice, alone and in a batch: nothing is drawn inside the adaptive solver."""
    vdm = VDM(gaussian, LinearSchedule(-6.0, 5.0), levels=8).double()
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(8, (5, 1, 2, 2), generator=generator, dtype=torch.uint8)
    indices = torch.tensor([3, 8, 1, 0, 2**40])
    whole = ode_nll(vdm, images, indices, draws=2)
    assert torch.equal(ode_nll(vdm, images, indices, draws=2), whole)
    alone = ode_nll(vdm, images[4:], indices[4:], draws=2)
    torch.testing.assert_close(alone, whole[4:], rtol=1e-9, atol=1e-9)


def test_labels_reach_the_network(convolution: nn.Module, images: Tensor) -> None:
    vdm, indices = VDM(convolution, LinearSchedule()), torch.arange(6)
    solver = RungeKutta4(2)
    plain = ode_nll(vdm, images, indices, solver=solver)
    labelled = ode_nll(vdm, images, indices, torch.ones(6, dtype=torch.int64), solver=solver)
    assert (plain != labelled).all()
    assert not plain.requires_grad


def test_wrong_input_is_an_error_that_names_it(convolution: nn.Module, images: Tensor) -> None:
    vdm, indices = VDM(convolution, LinearSchedule()), torch.arange(6)
    with pytest.raises(ValueError, match="draws is 0"):
        ode_nll(vdm, images, indices, draws=0)
    with pytest.raises(ValueError, match="'hutchinson': give one of exact, rademacher, gaussian"):
        ode_nll(vdm, images, indices, divergence="hutchinson")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="unknown dequantisation 'none'"):
        ode_nll(vdm, images, indices, dequantisation="none")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"gamma_0 is 1.0 and gamma_1 is 1.0"):
        ode_log_density(lambda z, gamma: z, torch.zeros(1, 1, 1, 1), gamma_0=1.0, gamma_1=1.0)
    maps = VDM(convolution, MultivariateSchedule((2, 4, 4)))
    with pytest.raises(ValueError, match="ode_nll needs one gamma for an image, and a Multiv"):
        ode_nll(maps, images, indices)
