"""A VDM read as a Markov hierarchical VAE with T latents above z_0, all of the image's size.

The encoder is fixed by the schedule: one step has a = alpha_{t|s} and v = sigma_{t|s}^2. The
decoder of a step is the encoder's own reverse with x_hat for x, p(z_s | z_t) = q(z_s | z_t, x_hat).
Fed to the bound of any such chain (`markov.py`), they give the three terms of the VDM in discrete
time (`elbo.py`): each level is 1/2 expm1(gamma_t - gamma_s) |epsilon - epsilon_hat|^2.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vdm_core import decoder
from vdm_core.decoder import encode
from vdm_core.inputs import check_images, check_label_shape
from vdm_core.ladder.gaussian import Gaussian
from vdm_core.ladder.markov import ChainBound, MarkovEncoder, markov_bound
from vdm_core.likelihood.profile import check_one_gamma
from vdm_core.prediction import to_x
from vdm_core.vdm import VDM


def vdm_encoder(gammas: Tensor) -> MarkovEncoder:
    """The forward process through ``gammas`` (T+1,), rising and float64, as a chain of steps.

    alpha_{t|s} = alpha_t / alpha_s and sigma_{t|s}^2 = -expm1(softplus(gamma_s) -
    softplus(gamma_t)) (Kingma et al. 2021, appendix A.1); the first step is q(z_0 | x).
    """
    log_alpha2, log_precision = -F.softplus(gammas), F.softplus(gammas)
    log_scales = 0.5 * torch.cat([log_alpha2[:1], log_alpha2.diff()])
    steps = -torch.expm1(-log_precision.diff())
    return MarkovEncoder(log_scales.exp(), torch.cat([torch.sigmoid(gammas[:1]), steps]))


def vdm_markov_bound(
    vdm: VDM,
    images: Tensor,
    labels: Tensor | None = None,
    *,
    noises: Sequence[Tensor],
) -> ChainBound:
    """The bound of ``images`` (B,C,H,W) uint8 under a VDM in T = ``len(noises)`` - 1 steps.

    ``noises``: standard normals (B,C,H,W) of z_T, ..., z_0. T network calls. In expectation this
    is the VDM's own bound in T steps; here each level is a divergence by its general formula, at a
    path z_T, ..., z_0 drawn downwards. Raises ValueError for fewer than 2 noises and for a schedule
    with a gamma for each pixel.
    """
    check_one_gamma(vdm, "vdm_markov_bound")
    check_images(images, vdm.levels)
    check_label_shape(labels, len(images))
    steps = len(noises) - 1
    if steps < 1:
        raise ValueError(f"there are {len(noises)} noises: give one of each of z_T, ..., z_0")
    x = encode(images, vdm.levels, vdm.dtype)
    times = torch.arange(steps + 1, dtype=torch.float64, device=x.device) / steps
    gammas = vdm.schedule(times).gamma
    encoder = vdm_encoder(gammas)

    def decode_step(t: int, z: Tensor) -> Gaussian:
        gamma = gammas[t].to(z.dtype).expand(len(z))
        x_hat = to_x(vdm.network(z, gamma, labels).to(z.dtype), z, gamma, vdm.prediction)
        return encoder.reverse(t, z, x_hat)

    def log_likelihood(z_0: Tensor) -> Tensor:
        return decoder.log_prob(images, z_0, gammas[:1].to(z_0.dtype), vdm.levels)

    return markov_bound(x, encoder, decode_step, log_likelihood, noises)
