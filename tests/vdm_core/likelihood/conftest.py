"""Models whose likelihoods are known: one pixel of few levels, and Gaussian data."""

import math

import pytest
import torch
from torch import Tensor, nn

from vdm_core import VDM, LinearSchedule
from vdm_core.decoder import encode


class OnePixel(nn.Module):
    """The optimal epsilon_hat for images of one pixel, all of whose levels are equally likely."""

    x: Tensor

    def __init__(self, levels: int) -> None:
        super().__init__()
        self.register_buffer("x", encode(torch.arange(levels), levels, torch.float64))

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = (torch.sigmoid(s * gamma).sqrt()[:, None, None, None] for s in (-1, 1))
        x = self.x.to(z.dtype)
        error = (z[..., None] - alpha[..., None] * x) / sigma[..., None]
        x_hat = ((-0.5 * error.square()).softmax(-1) * x).sum(-1)
        return (z - alpha * x_hat) / sigma


@pytest.fixture
def one_pixel() -> VDM:
    """Eight levels, gamma from -5 to 12, float64: -log p(x) tends to log 8 as T grows."""
    return VDM(OnePixel(8), LinearSchedule(-5.0, 12.0), levels=8).double()


@pytest.fixture
def eight_levels() -> Tensor:
    """Each level equally often: 4,096 images (B,1,1,1)."""
    return (torch.arange(4096) % 8).to(torch.uint8).view(-1, 1, 1, 1)


class Gaussian(nn.Module):
    """Data from N(mean, covariance) in (1,2,2), with the optimal epsilon_hat and all densities."""

    mean: Tensor
    axes: Tensor
    variances: Tensor

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        axes, _ = torch.linalg.qr(torch.randn(4, 4, generator=generator, dtype=torch.float64))
        self.register_buffer("axes", axes)
        self.register_buffer("variances", torch.tensor([1e-3, 0.02, 0.1, 0.4]).double())
        self.register_buffer("mean", torch.tensor([0.3, -0.2, 0.0, 0.1]).double())

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        alpha, sigma = (torch.sigmoid(s * gamma).sqrt()[:, None] for s in (-1, 1))
        centred = (z.flatten(1) - alpha * self.mean) @ self.axes
        along = sigma * centred / (alpha.square() * self.variances + sigma.square())
        return (along @ self.axes.T).view_as(z)

    def ode_log_density(self, y: Tensor, gamma_0: float, gamma_1: float) -> Tensor:
        """log p(y at gamma_0) when z_1 ~ N(0, I): along each axis the ODE keeps the distance from
        the mean, in standard deviations."""
        s_0, s_1 = (self.variances + math.exp(gamma) for gamma in (gamma_0, gamma_1))
        deviation = (y.flatten(1) - self.mean) @ self.axes / s_0.sqrt()
        y_1 = self.mean + deviation * s_1.sqrt() @ self.axes.T
        variance_1 = 1 + math.exp(gamma_1)  # of y_1 = z_1 / alpha_1
        log_p_1 = -0.5 * (y_1.square() / variance_1 + math.log(math.tau * variance_1)).sum(1)
        return log_p_1 + 0.5 * (s_1 / s_0).log().sum()

    def sample(self, count: int) -> Tensor:
        """y at gamma = -infinity, (count,1,2,2)."""
        generator = torch.Generator().manual_seed(1)
        normal = torch.randn(count, 4, generator=generator, dtype=torch.float64)
        return (self.mean + normal * self.variances.sqrt() @ self.axes.T).view(-1, 1, 2, 2)


@pytest.fixture
def gaussian() -> Gaussian:
    return Gaussian()


class Convolution(nn.Module):
    """A small network of two channels that depends on z, gamma and the labels."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.conv = nn.Conv2d(2, 2, 3, padding=1)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        answer: Tensor = self.conv(z) + 0.05 * gamma[:, None, None, None]
        return answer if labels is None else answer + 0.1 * labels[:, None, None, None]


@pytest.fixture
def convolution() -> Convolution:
    return Convolution()


@pytest.fixture
def images() -> Tensor:
    """(6,2,4,4)."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (6, 2, 4, 4), generator=generator, dtype=torch.uint8)
