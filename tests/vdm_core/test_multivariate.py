"""A gamma for each pixel: pinned ends, strict increase, slopes, and the ELBO as a line integral."""

import math
from collections.abc import Callable
from typing import TypeVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdm_core import VDM, ElboTerms, LinearSchedule, MultivariateSchedule, elbo
from vdm_core.diffusion import alpha_sigma, diffuse
from vdm_core.multivariate import polynomial_warp

SHAPE = (2, 3, 4)
MAKERS: dict[str, Callable[[], MultivariateSchedule]] = {
    "shared ends": lambda: MultivariateSchedule(SHAPE),
    "own ends": lambda: MultivariateSchedule(SHAPE, own_ends=True),
    "fixed ends": lambda: MultivariateSchedule(SHAPE, learned=False),
}
Module = TypeVar("Module", bound=nn.Module)
schedules = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def shake(schedule: Module, scale: float = 1.0) -> Module:
    """Move every parameter at random: the state that any training might reach."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return schedule


@schedules
@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_after_any_change_the_ends_are_pinned_and_every_pixels_gamma_rises(
    make: Callable[[], MultivariateSchedule], scale: float
) -> None:
    schedule = shake(make())
    shake(schedule.warp, scale)
    point = schedule(torch.linspace(0, 1, 129, dtype=torch.float64))
    gamma_0, gamma_1 = (end.double().view(schedule.ends.shape) for end in schedule.ends())
    assert torch.equal(point.gamma[0], gamma_0.expand(SHAPE))
    assert torch.equal(point.gamma[-1], gamma_1.expand(SHAPE))
    assert (point.gamma.diff(dim=0) > 0).all()
    assert (point.slope > 0).all()


@schedules
def test_the_slope_is_the_derivative_of_gamma(make: Callable[[], MultivariateSchedule]) -> None:
    schedule = shake(make().double())
    t = torch.rand(5, dtype=torch.float64)
    derivative = torch.autograd.functional.jacobian(lambda t: schedule(t).gamma.sum(0), t)
    torch.testing.assert_close(schedule(t).slope, derivative.movedim(-1, 0), rtol=1e-9, atol=1e-10)


def test_any_shape_of_t_gets_the_shape_of_the_image_added() -> None:
    schedule, t = shake(MultivariateSchedule(SHAPE)), torch.rand(2, 3)
    point = schedule(t)
    assert point.gamma.shape == point.slope.shape == (2, 3, *SHAPE)
    torch.testing.assert_close(schedule(t[1, 2]).gamma, point.gamma[1, 2])
    assert point.gamma.dtype == torch.float32
    assert schedule(t.double()).gamma.dtype == torch.float64


def test_the_polynomial_is_the_integral_of_a_square() -> None:
    """Against numpy's polynomials, with the square multiplied out there."""
    coefficients = torch.randn(3, 1, 1, 1, dtype=torch.float64)
    a, b, c = coefficients.flatten().tolist()
    square = np.polynomial.Polynomial([c, b, a]) ** 2 + 1e-2
    integral = square.integ()
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    r, slope = polynomial_warp(t, coefficients)
    torch.testing.assert_close(r.flatten(), torch.from_numpy(integral(t.numpy()) / integral(1.0)))
    torch.testing.assert_close(slope.flatten(), torch.from_numpy(square(t.numpy()) / integral(1.0)))


class Convolution(nn.Module):
    """A small network that depends on z and gamma."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        answer: Tensor = self.conv(z) + 0.1 * gamma[:, None, None, None]
        return answer


def draws(batch: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, batch, *SHAPE, generator=generator, dtype=torch.float64)
    return {
        "images": torch.randint(256, (batch, *SHAPE), generator=generator, dtype=torch.uint8),
        "times": torch.rand(batch, generator=generator, dtype=torch.float64),
        "noise": noise[0],
        "noise_0": noise[1],
    }


@pytest.mark.parametrize("steps", [None, 10])
def test_a_map_whose_pixels_are_all_on_the_line_gives_the_terms_of_the_line(
    steps: int | None,
) -> None:
    network = Convolution().double()
    line = VDM(network, LinearSchedule(), steps=steps).double()(**draws())
    maps = VDM(network, MultivariateSchedule(SHAPE, own_ends=True), steps=steps).double()(**draws())
    assert isinstance(maps, ElboTerms)
    for got, expected in zip(maps, line, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("steps", [None, 10])
def test_every_parameter_gets_a_gradient_from_the_total(steps: int | None) -> None:
    vdm = VDM(Convolution(), shake(MultivariateSchedule(SHAPE, own_ends=True), 0.3), steps=steps)
    vdm(**draws()).total.mean().backward()
    for name, parameter in vdm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_the_network_is_told_the_mean_of_gamma_over_the_image() -> None:
    seen = []

    class Listener(Convolution):
        def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
            seen.append(gamma)
            return super().forward(z, gamma, labels)

    schedule = shake(MultivariateSchedule(SHAPE).double())
    batch = draws()
    VDM(Listener().double(), schedule)(**batch)
    torch.testing.assert_close(seen[0], schedule(batch["times"]).gamma.mean((1, 2, 3)))


def test_the_prior_is_the_kl_at_each_pixels_own_gamma() -> None:
    x = torch.rand(4, *SHAPE, dtype=torch.float64) * 2 - 1
    gamma = torch.linspace(-1, 6, math.prod(SHAPE), dtype=torch.float64).view(1, *SHAPE)
    alpha, sigma = alpha_sigma(gamma)
    expected = kl_divergence(Normal(alpha * x, sigma.expand_as(x)), Normal(0.0, 1.0))
    torch.testing.assert_close(elbo.prior(x, gamma), expected.flatten(1).sum(1))


class TwoPixels:
    """Data from N(0, covariance) in two pixels, whose every expectation is known."""

    covariance = torch.tensor([[0.5, 0.4], [0.4, 0.6]], dtype=torch.float64)

    def loss(self, schedule: MultivariateSchedule, seen: Callable[[Tensor], Tensor]) -> float:
        """The continuous diffusion loss, by quadrature in t, of a denoiser that takes ``seen`` of
        gamma for gamma. The expectation of a quadratic in (x, epsilon) is its mean over +-sqrt(4)
        times four unit vectors.
        """
        nodes, weights = np.polynomial.legendre.leggauss(400)
        times, weights = (torch.from_numpy(nodes) + 1) / 2, torch.from_numpy(weights) / 2
        at = elbo.noise_levels(schedule, times, None, torch.float64)
        root = torch.linalg.cholesky(self.covariance)
        total = torch.zeros(len(times), dtype=torch.float64)
        for point in torch.cat([torch.eye(4), -torch.eye(4)]).double() * 2:
            x = (root @ point[:2]).view(1, 1, 1, 2).expand(len(times), 1, 1, 2)
            noise = point[2:].view(1, 1, 1, 2).expand_as(x)
            z = diffuse(x, at.gamma_t, noise).z
            epsilon = self.epsilon_hat(z, seen(at.gamma_t))
            total += elbo.diffusion(epsilon, x, noise, at.gamma_t, at.weight, "epsilon") / 8
        return (total * weights).sum().item()

    def epsilon_hat(self, z: Tensor, gamma: Tensor) -> Tensor:
        """S (A Sigma A + S^2)^-1 z for the diagonal matrices A and S of alpha and sigma."""
        alpha, sigma = (c.reshape(-1, 2) for c in alpha_sigma(gamma))
        marginal = alpha[:, :, None] * self.covariance * alpha[:, None, :]
        marginal = marginal + torch.diag_embed(sigma.square())
        solved = torch.linalg.solve(marginal, z.reshape(-1, 2, 1))
        return (sigma[:, :, None] * solved).view_as(z)

    def information(self, gamma: float) -> float:
        """I(x; z_gamma) = 1/2 log det(1 + Sigma SNR)."""
        eye = torch.eye(2, dtype=torch.float64)
        return 0.5 * torch.logdet(eye + self.covariance * math.exp(-gamma)).item()


def paths() -> list[MultivariateSchedule]:
    """Three paths between the same ends; the last two let one pixel hurry ahead of the other."""
    schedules = [MultivariateSchedule((1, 1, 2), -6.0, 4.0).double() for _ in range(3)]
    with torch.no_grad():
        schedules[1].warp.coefficients[:] = torch.tensor([0.0, 0, 4, -1, 0, 1])  # a, a, b, b, c, c
        schedules[2].warp.coefficients[:] = torch.tensor([0.0, 0, -1, 4, 1, 0])
    return schedules


def test_for_the_optimal_denoiser_the_line_integral_depends_on_the_ends_alone() -> None:
    """It is the information that z_0 has over z_1 about x (Palomar and Verdu 2006)."""
    data = TwoPixels()
    expected = data.information(-6.0) - data.information(4.0)
    for schedule in paths():
        assert data.loss(schedule, lambda gamma: gamma) == pytest.approx(expected, abs=1e-7)


def test_for_a_denoiser_that_knows_the_mean_of_gamma_alone_the_path_matters() -> None:
    def seen(gamma: Tensor) -> Tensor:
        return gamma.mean((1, 2, 3), keepdim=True).expand_as(gamma)

    straight, *others = (TwoPixels().loss(schedule, seen) for schedule in paths())
    for other in others:
        assert abs(other - straight) > 0.01


@pytest.mark.parametrize("shape", [(3, 4), (1, 0, 4), (1, 2, 3, 4)])
def test_a_shape_that_is_none_is_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"shape is .*\(C, H, W\)"):
        MultivariateSchedule(shape)  # type: ignore[arg-type]


def test_the_variance_objective_is_for_one_shape_for_all_pixels() -> None:
    with pytest.raises(ValueError, match="one for all pixels"):
        VDM(Convolution(), MultivariateSchedule(SHAPE), schedule_objective="variance")
