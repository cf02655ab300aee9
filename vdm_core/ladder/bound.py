"""The ELBO of latents z_T, ..., z_1 that are drawn one after the other, top down.

The joints of encoder and model are both written in the order in which images are generated,

    q(z_T | x) prod_t q(z_t | z_{>t}, x)    and    p(z_T) prod_t p(z_t | z_{>t}) p(x | z_1..T),

so the bound is a sum of divergences, each of two Gaussians and hence in closed form:

    -log p(x) <= E_q[ -log p(x | z_1..T) + KL(q(z_T | x) || p(z_T))
                      + sum_t KL(q(z_t | z_{>t}, x) || p(z_t | z_{>t})) ],    t < T.

Any encoder can be written so, by the chain rule. One that is given upwards, q(z_t | z_{t-1}), is
turned around by Bayes' rule (`markov.py`); its own order would leave log ratios that need not be
positive in place of divergences.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from vdm_core.ladder.gaussian import Gaussian
from vdm_core.records import HierarchicalElboTerms

Conditional = Callable[[tuple[Tensor, ...]], tuple[Gaussian, Gaussian]]
"""(z_T, ..., z_{t+1}) -> q(z_t | z_{>t}, x) and p(z_t | z_{>t})."""


class TopDown(NamedTuple):
    """``latents`` z_T, ..., z_1 as they were drawn, and their ``kls`` in that order, each (B,)."""

    latents: tuple[Tensor, ...]
    kls: tuple[Tensor, ...]


def top_down(conditionals: Sequence[Conditional], noises: Sequence[Tensor]) -> TopDown:
    """Draw z_T, ..., z_1 from the encoder and take the divergence of each.

    ``conditionals`` and ``noises``: one of each latent, from z_T down; a noise is standard normal
    and shaped like its latent. Raises ValueError where they differ in number.
    """
    latents: tuple[Tensor, ...] = ()
    kls: tuple[Tensor, ...] = ()
    for conditional, noise in zip(conditionals, noises, strict=True):
        q, p = conditional(latents)
        latents += (q.sample(noise),)
        kls += (q.kl(p),)
    return TopDown(latents, kls)


def free_bits(kl: Tensor, nats: float) -> Tensor:
    """``kl`` (B,) with the gradient of max(kl, ``nats``): none where ``kl`` is below.

    Free bits (Kingma et al. 2016, appendix C.8) keep latents in use early in training. The value is
    the true divergence, so that what is reported is the ELBO, and the gradient is that of the
    objective. Each example has its own floor: a mean over the batch would make its gradient depend
    on how batches are split among workers.
    """
    return torch.where(kl > nats, kl, kl.detach())


def hierarchical_terms(reconstruction: Tensor, kls: Sequence[Tensor]) -> HierarchicalElboTerms:
    """The terms from -log p(x | z), (B,), and the divergences of z_T, ..., z_1, (B,) each."""
    prior, *lower = kls
    levels = torch.stack(lower[::-1], dim=1) if lower else prior.new_zeros(len(prior), 0)
    return HierarchicalElboTerms(reconstruction, prior, levels)
