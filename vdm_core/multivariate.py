"""Noise schedules with a gamma for each pixel and channel, as polynomials in t.

MuLAN (Sahoo et al. 2024, "Diffusion models with learned adaptive noise", section 3). The ELBO's
terms keep their form, elementwise; the diffusion term becomes a line integral along the path that
the vector of gammas takes from its one end to the other,

    1/2 E sum_i gamma_i'(t) (epsilon_i - epsilon_hat_i)^2.

For a denoiser that is the posterior mean under some law of the data, given all gammas, the
integrand is a gradient (Palomar and Verdu 2006) and only the ends count, as with one gamma. A
network is none, the more so as it is told the mean of gamma alone: the path matters, and is
trained on the ELBO.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vdm_core.schedule import Ends, Schedule

FLOOR = 1e-2


def polynomial_warp(t: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """r and its slope at ``t``, with r' proportional to (a t^2 + b t + c)^2 + FLOOR.

    ``coefficients``: (..., 3, C, H, W), the maps a, b and c; ``t`` (...) is broadcast against the
    dimensions before them. Returns r and r', (..., C, H, W). The floor, which MuLAN has not, makes
    r strictly increasing whatever the coefficients; r(0) = 0 and r(1) = 1 exactly.
    """
    a, b, c = coefficients.unbind(-4)
    squares = (c * c + FLOOR, 2 * b * c, b * b + 2 * a * c, 2 * a * b, a * a)
    t = t[..., None, None, None]
    area, total = torch.zeros_like(a), torch.zeros_like(a)
    for power in reversed(range(5)):
        area = area * t + squares[power] / (power + 1)
        total = total + squares[power] / (power + 1)
    slope = ((a * t + b) * t + c).square() + FLOOR
    return area * t / total, slope / total


class PolynomialWarp(nn.Module):
    """One learned polynomial for each place of images of ``shape`` (C,H,W); r(t) = t at first."""

    def __init__(self, shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.shape = check_shape(shape)
        self.coefficients = nn.Parameter(identity_coefficients(self.shape))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """r and its slope at ``t`` of any shape, both t.shape + (C,H,W)."""
        return polynomial_warp(t, self.coefficients.to(t.dtype).view(3, *self.shape))


class MultivariateSchedule(Schedule):
    """gamma(t) of t.shape + (C,H,W), along a learned polynomial for each pixel and channel.

    ``shape``: (C,H,W) of the images. ``own_ends``: whether each place has ends of its own as well,
    rather than one pair for all. The network is given the mean of gamma over an image, as in
    MuLAN. Raises ValueError for a shape that is not three positive numbers, and for ends that do
    not rise.
    """

    per_pixel = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        gamma_0: float = -13.3,
        gamma_1: float = 5.0,
        *,
        learned: bool = True,
        own_ends: bool = False,
    ) -> None:
        ends = Ends(gamma_0, gamma_1, learned, shape=check_shape(shape) if own_ends else ())
        super().__init__(ends, PolynomialWarp(shape))


def check_shape(shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """``shape`` itself. Raises ValueError unless it is three positive numbers."""
    if len(shape) != 3 or min(shape) < 1:
        raise ValueError(f"shape is {shape}: give (C, H, W) of the images, each at least 1")
    return shape


def identity_coefficients(shape: tuple[int, int, int]) -> Tensor:
    """a = b = 0 and c = 1 everywhere, for which r(t) = t: (3 C H W,)."""
    return torch.tensor([0.0, 0.0, 1.0]).repeat_interleave(math.prod(shape))
