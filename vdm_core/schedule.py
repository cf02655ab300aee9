"""The noise schedule gamma(t), the negative log-SNR, and its slope in closed form.

Kingma et al. 2021, section 3.2 and appendix H. Every schedule here is

    gamma(t) = gamma_0 + (gamma_1 - gamma_0) r(t)

with two ends (``Ends``) and a warp r, an increasing map of [0, 1] onto itself. The ends are trained
on the ELBO. The warp cannot change the continuous-time ELBO's expectation, only the variance of its
estimate, which is why the two are separate modules: a gradient of their own can be given to each.

Nothing here asks autograd for the slope, so schedules work inside ZeRO-3. All parameters are
vectors, for the same reason. Schedules compute in float32 at least, whatever autocast says.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdm_core.records import SchedulePoint


class Ends(nn.Module):
    """The ends of a schedule, gamma_0 < gamma_1, as parameters or as constants (buffers).

    Learned ends stay in order by construction: gamma_0 = end_0 and
    gamma_1 = end_1 + softplus(end_0 - end_1) = end_0 + softplus(end_1 - end_0) > end_0. For the
    usual distance of 18 the softplus is 1e-8, so that the parameters are the ends in practice.
    Raises ValueError unless gamma_0 < gamma_1 and both are finite.
    """

    end_0: Tensor
    end_1: Tensor

    def __init__(self, gamma_0: float, gamma_1: float, learned: bool) -> None:
        super().__init__()
        if not -math.inf < gamma_0 < gamma_1 < math.inf:
            raise ValueError(
                f"gamma_0 is {gamma_0} and gamma_1 is {gamma_1}: gamma is the negative log-SNR and "
                "must rise, gamma_0 < gamma_1"
            )
        end_1 = gamma_1 + math.log(-math.expm1(gamma_0 - gamma_1))
        for name, value in (("end_0", gamma_0), ("end_1", end_1)):
            end = torch.tensor([float(value)])
            if learned:
                self.register_parameter(name, nn.Parameter(end))
            else:
                self.register_buffer(name, end)

    def forward(self) -> tuple[Tensor, Tensor]:
        """gamma_0 and gamma_1, each (1,). Raises TypeError for ends below float32."""
        if self.end_0.dtype not in (torch.float32, torch.float64):
            raise TypeError(
                f"the schedule's ends are {self.end_0.dtype}, too coarse for gamma: keep the "
                "schedule in float32 (cast the network alone, or run it under torch.autocast)"
            )
        # A copy: ZeRO-3 empties the parameter itself when this module returns.
        return self.end_0.clone(), self.end_1 + F.softplus(self.end_0 - self.end_1)


class IdentityWarp(nn.Module):
    """r(t) = t."""

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """r(t) and its slope, both shaped like ``t``."""
        return t, torch.ones_like(t)


class MonotoneWarp(nn.Module):
    """r(t) = (g(t) - g(0)) / (g(1) - g(0)) for the monotone net g of VDM, appendix H:

    g(t) = l_1(t) + l_3(sigmoid(l_2(l_1(t)))), three linear layers with positive weights (here the
    softplus of the parameters; l_3's are divided by the number of units). The biases of l_1 and l_3
    are left out: the first is part of l_2's, the second cancels. At the start the units' centres
    are spread evenly, somewhat beyond both ends of [0, 1], which makes r close to the identity.
    """

    steepness, margin, height = 20.0, 0.25, 4.0

    def __init__(self, units: int) -> None:
        super().__init__()
        if units < 1:
            raise ValueError(f"units is {units}: the monotone schedule needs at least 1")
        centres = torch.linspace(-self.margin, 1 + self.margin, units)
        self.weight_1 = nn.Parameter(_softplus_inverse(torch.ones(1)))
        self.weight_2 = nn.Parameter(_softplus_inverse(torch.full((units,), self.steepness)))
        self.bias_2 = nn.Parameter(-self.steepness * centres)
        self.weight_3 = nn.Parameter(_softplus_inverse(torch.full((units,), self.height)))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """r(t) and its slope, both shaped like ``t``; g is taken at 0, at 1 and at all of t."""
        w_1, w_2, w_3 = (
            F.softplus(weight.to(t.dtype))
            for weight in (self.weight_1, self.weight_2, self.weight_3)
        )
        w_3 = w_3 / len(w_3)
        l_1 = torch.cat([_ends_of_time(t), t.flatten()]) * w_1
        hidden = torch.sigmoid(l_1[:, None] * w_2 + self.bias_2.to(t.dtype))
        g = l_1 + (hidden * w_3).sum(1)
        slope = w_1 * (1 + (hidden * (1 - hidden) * (w_2 * w_3)).sum(1))
        rise = g[1] - g[0]
        return ((g[2:] - g[0]) / rise).view_as(t), (slope[2:] / rise).view_as(t)


class Schedule(nn.Module):
    """gamma(t) between two ``ends`` along a ``warp``."""

    def __init__(self, ends: Ends, warp: nn.Module) -> None:
        super().__init__()
        self.ends = ends
        self.warp = warp

    def forward(self, t: Tensor) -> SchedulePoint:
        """gamma and d gamma / d t at times ``t`` in [0, 1] of any shape, shaped like ``t``.

        float64 if ``t`` or the schedule's ends are, float32 otherwise. gamma(0) and gamma(1) equal
        the ends exactly. Raises TypeError for ends below float32.
        """
        with torch.autocast(t.device.type, enabled=False):
            gamma_0, gamma_1 = self.ends()
            t = t.to(torch.promote_types(t.dtype, gamma_0.dtype))
            gamma_0, gamma_1 = gamma_0.to(t.dtype)[0], gamma_1.to(t.dtype)[0]
            r, slope = self.warp(t)
            return SchedulePoint(torch.lerp(gamma_0, gamma_1, r), (gamma_1 - gamma_0) * slope)


class LinearSchedule(Schedule):
    """gamma(t) = gamma_0 + (gamma_1 - gamma_0) t, with learned or fixed ends."""

    def __init__(
        self, gamma_0: float = -13.3, gamma_1: float = 5.0, *, learned: bool = True
    ) -> None:
        super().__init__(Ends(gamma_0, gamma_1, learned), IdentityWarp())


class MonotoneSchedule(Schedule):
    """gamma(t) along a learned monotone net of ``units`` sigmoids, with learned or fixed ends."""

    def __init__(
        self,
        gamma_0: float = -13.3,
        gamma_1: float = 5.0,
        *,
        learned: bool = True,
        units: int = 1024,
    ) -> None:
        super().__init__(Ends(gamma_0, gamma_1, learned), MonotoneWarp(units))


def _ends_of_time(t: Tensor) -> Tensor:
    """The times 0 and 1, (2,), made on the device of ``t``."""
    return torch.arange(2, dtype=t.dtype, device=t.device)


def _softplus_inverse(y: Tensor) -> Tensor:
    return y + torch.log(-torch.expm1(-y))
