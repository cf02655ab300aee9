"""A noise schedule that adapts to the image through an auxiliary latent (MuLAN).

Sahoo et al. 2024, section 3.3. A latent c is inferred from the image, c ~ q(c | x), and sets the
polynomial of each pixel's gamma. The model draws c ~ p(c) = N(0, I) first and then runs the reverse
process of the schedule that belongs to c, so the bound gains one term,

    -log p(x) <= E_{q(c | x)}[reconstruction + prior + diffusion, given c] + KL(q(c | x) || p(c)).

The bound holds for any network. MuLAN's is also told c; here it sees z and the mean of gamma, which
keeps one contract for all networks, and has to infer from z what it needs of c.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdm_core.multivariate import check_shape, identity_coefficients, polynomial_warp
from vdm_core.records import SchedulePoint
from vdm_core.schedule import Ends, IdentityWarp, Schedule


class AuxiliaryLatent(NamedTuple):
    """A draw of q(c | x).

    ``value``: c, (B,d). ``kl``: KL(q(c | x) || N(0, I)), and ``log_ratio``: log q(c | x) - log p(c)
    at this c, whose mean the KL is; both (B,), nats.
    """

    value: Tensor
    kl: Tensor
    log_ratio: Tensor


class LatentEncoder(nn.Module):
    """x (B,C,H,W) to the mean and the log variance of q(c | x), both (B,d): a small strided CNN.

    Both are 0 at first, where q(c | x) is the prior and the KL is 0.
    """

    def __init__(self, channels: int, latent_dim: int, width: int) -> None:
        super().__init__()
        self.conv_1 = nn.Conv2d(channels, width, 3, stride=2, padding=1)
        self.conv_2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.head = nn.Linear(2 * width, 2 * latent_dim)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The mean and the log variance, (B,d) each."""
        h = F.silu(self.conv_2(F.silu(self.conv_1(x))))
        mean, log_variance = self.head(h.mean((2, 3))).chunk(2, dim=1)
        return mean, log_variance


class CoefficientDecoder(nn.Module):
    """c (B,d) to the coefficients of its polynomials, (B,3,C,H,W): at first r(t) = t for any c."""

    def __init__(self, latent_dim: int, shape: tuple[int, int, int], width: int) -> None:
        super().__init__()
        self.shape = shape
        self.hidden_1 = nn.Linear(latent_dim, width)
        self.hidden_2 = nn.Linear(width, width)
        self.out = nn.Linear(width, 3 * math.prod(shape))
        nn.init.zeros_(self.out.weight)
        with torch.no_grad():
            self.out.bias.copy_(identity_coefficients(shape))

    def forward(self, latent: Tensor) -> Tensor:
        """The maps a, b and c of each example."""
        h = F.silu(self.hidden_2(F.silu(self.hidden_1(latent))))
        coefficients: Tensor = self.out(h)
        return coefficients.view(-1, 3, *self.shape)


class AdaptiveSchedule(Schedule):
    """gamma(t, c) for each pixel and channel, with c inferred from the image.

    ``shape``: (C,H,W) of the images. ``latent_dim``: d, the size of c. ``width``: channels of the
    encoder's first layer, and a quarter of the decoder's hidden units. The ends are shared by all
    places and examples. Raises ValueError for sizes below 1 and for ends that do not rise.
    """

    per_pixel = True

    def __init__(
        self,
        shape: tuple[int, int, int],
        gamma_0: float = -13.3,
        gamma_1: float = 5.0,
        *,
        learned: bool = True,
        latent_dim: int = 50,
        width: int = 32,
    ) -> None:
        if min(latent_dim, width) < 1:
            raise ValueError(f"latent_dim {latent_dim}, width {width}: give at least 1 for both")
        super().__init__(Ends(gamma_0, gamma_1, learned), IdentityWarp())
        self.latent_dim = latent_dim
        self.encoder = LatentEncoder(check_shape(shape)[0], latent_dim, width)
        self.decoder = CoefficientDecoder(latent_dim, shape, 4 * width)

    def infer(self, x: Tensor, noise: Tensor) -> AuxiliaryLatent:
        """c = mean + std ``noise`` for scaled images ``x`` (B,C,H,W) and ``noise`` (B,d) ~ N(0, I).

        KL = 1/2 sum(mean^2 + variance - 1 - log variance). In the precision of the parameters,
        whatever autocast says.
        """
        with torch.autocast(x.device.type, enabled=False):
            mean, log_variance = self.encoder(x.to(self.encoder.head.weight.dtype))
            value = mean + torch.exp(log_variance / 2) * noise
            kl = 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(1)
            log_ratio = 0.5 * (value.square() - noise.square() - log_variance).sum(1)
            return AuxiliaryLatent(value, kl, log_ratio)

    def forward(
        self,
        t: Tensor,
        latent: Tensor | None = None,
        *,
        watch: Callable[[Tensor, Tensor], None] | None = None,
    ) -> SchedulePoint:
        """gamma and its slope, (..., B, C, H, W), at ``t`` (..., B) or (..., 1) given ``latent``.

        ``latent``: c, (B,d). Raises ValueError without it.
        """
        if latent is None:
            raise ValueError(
                "an AdaptiveSchedule has no gamma without its latent: pass latent=c of shape "
                f"(B, {self.latent_dim}), inferred from images or drawn from N(0, I)"
            )
        with torch.autocast(latent.device.type, enabled=False):
            coefficients = self.decoder(latent.to(self.decoder.out.weight.dtype))
        return self._along(lambda t: polynomial_warp(t, coefficients.to(t.dtype)), t, watch)


def at_prior_mean(schedule: Schedule, t: Tensor) -> SchedulePoint:
    """gamma and its slope at ``t`` (N,): (N,), or (N,C,H,W) for a schedule with one for each pixel.

    For curves and figures. An adaptive schedule is shown at the mean of its latent's prior, c = 0.
    """
    if not isinstance(schedule, AdaptiveSchedule):
        point: SchedulePoint = schedule(t)
        return point
    latent = torch.zeros(1, schedule.latent_dim, device=t.device)
    gamma, slope = schedule(t[:, None], latent)
    return SchedulePoint(gamma.squeeze(1), slope.squeeze(1))
