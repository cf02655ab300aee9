"""Train the shape of a noise schedule to make the diffusion loss a less noisy estimate.

Why. In continuous time the expected diffusion loss depends on gamma(t) through its two ends alone
(Kingma et al. 2021, equation 18). What the path r(t) between the ends does change is the variance
of the estimate at a random time: a path that hurries through noise levels with a large loss makes
some times count far more than others. So the network and the ends descend E[L], and the shape r
descends E[L^2] (appendix I.2); as (E L)^2 does not depend on r, that is the variance of L.

What. With L_i the diffusion loss of example i, seen by the shape through gamma_t and gamma'_t,

    gradient of mean(L_i^2)  =  mean of  2 L_i (gradient of L_i).

It is the ordinary gradient with every example weighted by its own 2 L_i. One backward pass serves
both: where the ordinary gradient of example i enters the shape, in r(t_i) and r'(t_i), it is
multiplied by 2 L_i. The network's gradient never passes there. Nor does that of the ends, which
join r after this point: gamma = gamma_0 + (gamma_1 - gamma_0) r.

How. r is computed before the network, L after it, and gradients flow last of all. So `watch` leaves
a hook on r that multiplies by a tensor of factors, and `weigh` writes 2 L into that tensor:

    factors = zeros_like(r)                                before the network
    r.register_hook(lambda gradient: gradient * factors)   runs in the backward pass
    factors[...] = 2 L                                     after the network

When. L_i belongs to one example, so that micro-batches, accumulation and workers need nothing
further, and a hook on a tensor is all the same to ZeRO, which shards parameters. In discrete time
too the shape descends E[L^2]; there E[L] depends on r as well, by a share of about 1/T.

Unit. L is in bits per dimension, the unit in which a training step averages its loss. The shape
then descends the mean of (bits/dim)^2, with a gradient a few times the ordinary one. In nats it
would be thousands of times larger, and clipping by the norm of all gradients would stop the
network. Nothing else depends on the unit: it only scales the learning rate of the shape.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


class VarianceGradient:
    """The change of the shape's gradient in one forward and backward pass.

    First the schedule calls ``watch``, then the VDM calls ``weigh``; the backward pass does the
    rest. Until ``weigh`` is called, the shape's gradient is zero.
    """

    def __init__(self) -> None:
        self._factors: Tensor | None = None

    def watch(self, r: Tensor, slope: Tensor) -> None:
        """Put the hook on the shape r(t) and its slope, both (2 + k B,), outputs of the warp.

        The first two times are 0 and 1, where r is fixed: they keep the factor 0. Then come k
        times for each of B examples: k = 1 in continuous time; in discrete time k = 2, first all
        t, then all s. Does nothing where no gradient is recorded.
        """
        if not r.requires_grad:
            return
        factors = torch.zeros_like(r)
        for output in (r, slope):
            output.register_hook(lambda gradient: gradient * factors)  # type: ignore[no-untyped-call]
        self._factors = factors

    def weigh(self, losses: Tensor, dims: int) -> None:
        """Multiply by 2 L from here on: ``losses`` (B,) nats, of images with ``dims`` numbers."""
        if self._factors is not None:
            bits = losses.detach() / (dims * math.log(2.0))
            self._factors[2:].view(-1, len(losses)).copy_(2 * bits)
