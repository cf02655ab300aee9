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
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdm_core.records import SchedulePoint


class Ends(nn.Module):
    """The ends of a schedule, gamma_0 < gamma_1, as parameters or as constants (buffers).

    One pair for all, or, with a ``shape`` such as (C,H,W), one pair for each place, kept flat.
    Learned ends stay in order by construction: gamma_0 = end_0 and
    gamma_1 = end_1 + softplus(end_0 - end_1) = end_0 + softplus(end_1 - end_0) > end_0. For the
    usual distance of 18 the softplus is 1e-8, so that the parameters are the ends in practice.
    Raises ValueError unless gamma_0 < gamma_1 and both are finite.
    """

    end_0: Tensor
    end_1: Tensor

    def __init__(
        self, gamma_0: float, gamma_1: float, learned: bool, shape: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        if not -math.inf < gamma_0 < gamma_1 < math.inf:
            raise ValueError(
                f"gamma_0 is {gamma_0} and gamma_1 is {gamma_1}: gamma is the negative log-SNR and "
                "must rise, gamma_0 < gamma_1"
            )
        self.shape = shape
        end_1 = gamma_1 + math.log(-math.expm1(gamma_0 - gamma_1))
        for name, value in (("end_0", gamma_0), ("end_1", end_1)):
            end = torch.full((math.prod(shape),), float(value))
            if learned:
                self.register_parameter(name, nn.Parameter(end))
            else:
                self.register_buffer(name, end)

    def forward(self) -> tuple[Tensor, Tensor]:
        """gamma_0 and gamma_1, each (1,) or (prod(shape),). TypeError for ends below float32."""
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

    g(t) = l_1(t) + l_3(sigmoid(l_2(l_1(t)))), three linear layers with positive weights. Those of
    l_1 and l_3 are exponentials of the parameters, so that a unit's height changes by a share of
    itself (l_3's are divided by the number of units); those of l_2 are softpluses, as exponentials
    would multiply a gradient that counts in the clipping of the network's by about 100. The biases
    of l_1 and l_3 are left out: the first is part of l_2's, the second cancels.

    At the start the units' centres are spread evenly, somewhat beyond both ends of [0, 1], and each
    unit reaches its neighbours, which makes r close to the identity.
    """

    steepest, margin, height = 100.0, 0.25, 4.0

    def __init__(self, units: int) -> None:
        super().__init__()
        if units < 1:
            raise ValueError(f"units is {units}: the monotone schedule needs at least 1")
        centres = torch.linspace(-self.margin, 1 + self.margin, units)
        steepness = min(self.steepest, units)
        self.weight_1 = nn.Parameter(torch.zeros(1))
        self.weight_2 = nn.Parameter(_softplus_inverse(torch.full((units,), float(steepness))))
        self.bias_2 = nn.Parameter(-steepness * centres)
        self.weight_3 = nn.Parameter(torch.full((units,), math.log(self.height)))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """r(t) and its slope, both shaped like ``t``; g is taken at 0, at 1 and at all of t."""
        w_1, w_2 = self.weight_1.to(t.dtype).exp(), F.softplus(self.weight_2.to(t.dtype))
        w_3 = self.weight_3.to(t.dtype).exp() / len(self.bias_2)
        l_1 = torch.cat([_ends_of_time(t), t.flatten()]) * w_1
        hidden = torch.sigmoid(l_1[:, None] * w_2 + self.bias_2.to(t.dtype))
        g = l_1 + (hidden * w_3).sum(1)
        slope = w_1 * (1 + (hidden * (1 - hidden) * (w_2 * w_3)).sum(1))
        rise = g[1] - g[0]
        return ((g[2:] - g[0]) / rise).view_as(t), (slope[2:] / rise).view_as(t)


class CosineWarp(nn.Module):
    """r(t) of the cosine schedule, alpha(t) = cos u(t), between the angles that two ends demand.

    Nichol and Dhariwal 2021, equation 17. With sigma = sin u, gamma = 2 log tan u; the angle u runs
    evenly from atan(exp(gamma_0 / 2)) to atan(exp(gamma_1 / 2)). Their offset s = 0.008 and their
    clipping of beta at 0.999 are one choice of these two angles. The complement v = pi/2 - u is
    kept beside u, since cos u would lose its digits where u nears pi/2.
    """

    def __init__(self, gamma_0: float, gamma_1: float) -> None:
        super().__init__()
        self.u_0 = math.atan(math.exp(gamma_0 / 2))
        self.v_1 = math.atan(math.exp(-gamma_1 / 2))

    def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
        """r(t) and its slope, both shaped like ``t``."""
        times = torch.cat([_ends_of_time(t), t.flatten()])
        span = math.pi / 2 - self.v_1 - self.u_0
        u, v = self.u_0 + span * times, self.v_1 + span * (1 - times)
        g = 2 * (u.sin().log() - v.sin().log())
        slope = 2 * span * (1 / u.tan() + 1 / v.tan())
        rise = g[1] - g[0]
        return ((g[2:] - g[0]) / rise).view_as(t), (slope[2:] / rise).view_as(t)


class Schedule(nn.Module):
    """gamma(t) between two ``ends`` along a ``warp``.

    ``per_pixel``: whether each pixel and channel has a gamma of its own.
    """

    per_pixel = False

    def __init__(self, ends: Ends, warp: nn.Module) -> None:
        super().__init__()
        self.ends = ends
        self.warp = warp

    def forward(
        self, t: Tensor, *, watch: Callable[[Tensor, Tensor], None] | None = None
    ) -> SchedulePoint:
        """gamma and d gamma / d t at times ``t`` in [0, 1] of any shape, shaped like ``t``.

        float64 if ``t`` or the schedule's ends are, float32 otherwise. gamma(0) and gamma(1) equal
        the ends exactly. ``watch`` is shown r(t) and its slope, before the ends join them. Raises
        TypeError for ends below float32.
        """
        return self._along(self.warp, t, watch)

    def _along(
        self,
        warp: Callable[[Tensor], tuple[Tensor, Tensor]],
        t: Tensor,
        watch: Callable[[Tensor, Tensor], None] | None,
    ) -> SchedulePoint:
        with torch.autocast(t.device.type, enabled=False):
            gamma_0, gamma_1 = self.ends()
            t = t.to(torch.promote_types(t.dtype, gamma_0.dtype))
            gamma_0, gamma_1 = (g.to(t.dtype).view(self.ends.shape) for g in (gamma_0, gamma_1))
            r, slope = warp(t)
            if watch is not None:
                watch(r, slope)
            return SchedulePoint(torch.lerp(gamma_0, gamma_1, r), (gamma_1 - gamma_0) * slope)


class LinearSchedule(Schedule):
    """gamma(t) = gamma_0 + (gamma_1 - gamma_0) t, with learned or fixed ends."""

    def __init__(
        self, gamma_0: float = -13.3, gamma_1: float = 5.0, *, learned: bool = True
    ) -> None:
        super().__init__(Ends(gamma_0, gamma_1, learned), IdentityWarp())


class CosineSchedule(Schedule):
    """The cosine schedule of Nichol and Dhariwal 2021 between two fixed ends."""

    def __init__(self, gamma_0: float = -13.3, gamma_1: float = 5.0) -> None:
        super().__init__(Ends(gamma_0, gamma_1, learned=False), CosineWarp(gamma_0, gamma_1))


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
