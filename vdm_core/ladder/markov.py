"""A Markov chain of Gaussians as an encoder, and the ELBO it gives with any decoder of its steps.

The encoder is given upwards, one step at a time, as a diffusion process is:

    q(z_0 | x) = N(a_0 x, v_0),    q(z_t | z_{t-1}) = N(a_t z_{t-1}, v_t),    t = 1, ..., T.

Its marginals are q(z_t | x) = N(A_t x, V_t), with A_t = a_t A_{t-1} and V_t = a_t^2 V_{t-1} + v_t.
Bayes' rule turns a step around: q(z_{t-1} | z_t, x) has precision 1 / V_{t-1} + a_t^2 / v_t and
mean (A_{t-1} x / V_{t-1} + a_t z_t / v_t) / precision. So the bound is one expectation over one
latent in each level (Luo 2022, equation 58),

    -log p(x) <= -E log p(x | z_0) + KL(q(z_T | x) || p(z_T))
                 + sum_t E_{q(z_t | x)} KL(q(z_{t-1} | z_t, x) || p(z_{t-1} | z_t)).

Nothing here knows of diffusion, gamma or a network.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vdm_core.ladder.bound import hierarchical_terms, top_down
from vdm_core.ladder.gaussian import Gaussian, standard_normal
from vdm_core.records import HierarchicalElboTerms

StepDecoder = Callable[[int, Tensor], Gaussian]
"""t, z_t -> p(z_{t-1} | z_t)."""

LogLikelihood = Callable[[Tensor], Tensor]
"""z_0 -> log p(x | z_0), (B,) nats."""


class MarkovEncoder:
    """The steps of a chain: ``scales`` a_0, ..., a_T and ``variances`` v_0, ..., v_T, (T+1,).

    Raises ValueError unless they are as long as each other and the variances positive.
    """

    def __init__(self, scales: Tensor, variances: Tensor) -> None:
        if scales.ndim != 1 or scales.shape != variances.shape or not (variances > 0).all():
            raise ValueError(
                f"scales {tuple(scales.shape)}, variances {tuple(variances.shape)}: give one of "
                "each for z_0, ..., z_T, and positive variances"
            )
        self.scales, self.variances = scales, variances
        self.total_scales = scales.cumprod(0)  # A_t
        totals = [variances[0]]
        for a, v in zip(scales[1:], variances[1:], strict=True):
            totals.append(a.square() * totals[-1] + v)
        self.total_variances = torch.stack(totals)  # V_t

    @property
    def steps(self) -> int:
        """T."""
        return len(self.scales) - 1

    def marginal(self, t: int, x: Tensor) -> Gaussian:
        """q(z_t | x) for ``x`` (B,...)."""
        log_std = 0.5 * self.total_variances[t].log()
        return Gaussian(self.total_scales[t] * x, log_std.to(x.dtype).expand_as(x))

    def reverse(self, t: int, z: Tensor, x: Tensor) -> Gaussian:
        """q(z_{t-1} | z_t = ``z``, x), t from 1 to T, by Bayes' rule."""
        from_below = 1 / self.total_variances[t - 1]
        from_above = self.scales[t] / self.variances[t]
        precision = from_below + self.scales[t] * from_above
        from_x = from_below * self.total_scales[t - 1] / precision
        mean = from_x * x + from_above / precision * z
        return Gaussian(mean, (-0.5 * precision.log()).to(x.dtype).expand_as(x))


class ChainBound(NamedTuple):
    """The ``terms`` of a chain's bound, and the ``latents`` z_T, ..., z_0 they were taken at.

    ``terms.levels``: (B,T), column t-1 of the step from z_t to z_{t-1}.
    """

    terms: HierarchicalElboTerms
    latents: tuple[Tensor, ...]


def markov_bound(
    x: Tensor,
    encoder: MarkovEncoder,
    decoder: StepDecoder,
    log_likelihood: LogLikelihood,
    noises: Sequence[Tensor],
) -> ChainBound:
    """The ELBO of data ``x`` (B,...) under a Markov hierarchical VAE with the prior N(0, I).

    ``noises``: standard normals of z_T, ..., z_0, each shaped like ``x``. Raises ValueError unless
    there are as many as latents.
    """

    def conditional(above: tuple[Tensor, ...]) -> tuple[Gaussian, Gaussian]:
        if not above:
            return encoder.marginal(encoder.steps, x), standard_normal(x)
        t = encoder.steps + 1 - len(above)  # of the latent drawn last
        return encoder.reverse(t, above[-1], x), decoder(t, above[-1])

    latents, kls = top_down([conditional] * (encoder.steps + 1), noises)
    return ChainBound(hierarchical_terms(-log_likelihood(latents[-1]), kls), latents)
