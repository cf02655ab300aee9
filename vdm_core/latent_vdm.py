"""A VDM whose data are the latents y of a VAE: for images too large for a VDM of their pixels.

Vahdat et al. 2021. The VAE's prior N(0, I) gives way to a VDM, p(y). With the VDM's own bound on
-log p(y) in its place, the VAE's bound stays one bound, of five terms:

    -log p(x) <= E_{q(y | x)} [ -log p(x | y) ]               reconstruction
               + E_{q(y | x)} [ log q(y | x) ]                encoder: minus its entropy
               + E [ -log p(y | z_0) ]                        latent
               + E [ KL(q(z_1 | y) || N(0, I)) ]              prior
               + E [ diffusion term of y ]                    diffusion

Latents are real numbers, so that p(y | z_0) is no longer over levels: it is N(z_0 / alpha_0,
exp(gamma_0) I), the density whose mean over q(z_0 | y) is known, -E log p(y | z_0) =
1/2 sum(1 + log(2 pi) + gamma_0). The encoder's entropy is known too. Their sum, 1/2 sum(gamma_0 -
log variance), says how finely p(y) is resolved beside how finely q(y | x) is: it goes to minus
infinity with gamma_0, and the diffusion term, which grows as fast, keeps the bound a bound.

It is exact where q(y | x) is the true posterior, epsilon_hat is optimal, and gamma runs far enough
both ways. Ends that are learned find where to stop; fixed ones should have exp(gamma_0) well below
the encoder's variance, and no lower, as what is below is noise that the network learns in vain.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from vdm_core.adaptive import AdaptiveSchedule
from vdm_core.diffusion import alpha_sigma
from vdm_core.family import Draw
from vdm_core.guidance import Guidance
from vdm_core.inputs import check_noise, check_times
from vdm_core.ladder.gaussian import Gaussian
from vdm_core.ladder.vae import VAE, check_inputs
from vdm_core.records import LatentElboTerms
from vdm_core.rng import Purpose, Seed, normal
from vdm_core.samplers import Grid, Sampler, SamplerName, evaluation_mode, sample_z_0
from vdm_core.samplers.noise import Decode, decoding_uniforms
from vdm_core.schedule import Schedule
from vdm_core.vdm import VDM


class LatentVDM(nn.Module):
    """The negative ELBO of images under a ``vae`` whose latents have the prior ``vdm``.

    ``vdm``: with a network and schedule for latents (B,c,h,w); of its ``levels`` nothing is used.
    ``joint``: train both together, or, by default, the VDM alone in a second phase, with the VAE as
    it is: its parameters are then frozen. Raises ValueError for an adaptive schedule.

    Labels are for both; a VAE without classes is shown none.
    """

    def __init__(self, vae: VAE, vdm: VDM, joint: bool = False) -> None:
        super().__init__()
        if isinstance(vdm.schedule, AdaptiveSchedule):
            raise ValueError(
                "an AdaptiveSchedule has a latent of its own, which LatentVDM does not infer: give "
                "another schedule"
            )
        self.vae = vae
        self.vdm = vdm
        self.joint = joint
        vae.requires_grad_(joint)

    @property
    def levels(self) -> int:
        """How many values a channel of the images takes."""
        return self.vae.levels

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the terms: float64 if the module is, else float32."""
        return self.vdm.dtype

    @property
    def schedule(self) -> Schedule:
        """The noise schedule of the latents."""
        return self.vdm.schedule

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Those of the VDM and of the VAE."""
        return *self.vdm.networks, *self.vae.networks

    @property
    def islands(self) -> tuple[nn.Module, ...]:
        """The schedule, and the VAE's last layers."""
        return *self.vdm.islands, *self.vae.islands

    @property
    def term_names(self) -> tuple[str, ...]:
        """The names of the terms that ``forward`` returns, in their order."""
        return LatentElboTerms._fields

    def latent_shape(self, shape: tuple[int, int, int]) -> tuple[int, int, int]:
        """(c,h,w) of y for images (C,H,W). Raises ValueError where H or W does not divide."""
        return self.vae.latent_shape(shape)

    def draws(self, shape: tuple[int, int, int]) -> dict[str, Draw]:
        """The random arguments of ``forward`` for images of this ``shape``, (C,H,W), by name."""
        latent = self.latent_shape(shape)
        return {
            "noise_encoder": Draw(Purpose.ENCODER, latent),
            "times": Draw(Purpose.TIMES),
            "noise": Draw(Purpose.NOISE, latent),
        }

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        noise_encoder: Tensor,
        times: Tensor,
        noise: Tensor,
        decoder_radius: int | None = None,
    ) -> LatentElboTerms:
        """The ELBO terms of ``images`` (B,C,H,W) uint8 with ``labels`` (B,) int64 or None.

        ``noise_encoder`` of y and ``noise`` of z_t: (B,c,h,w) standard normals. ``times``: (B,) in
        [0, 1]. ``decoder_radius``: ``within`` of ``PixelLikelihood.nll``. Raises TypeError or
        ValueError for a wrong dtype or shape.
        """
        check_inputs(self, images, labels, noise_encoder)
        check_noise(noise, "noise", tuple(noise_encoder.shape))
        check_times(times, len(images))
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.joint):
            q = self.vae.encode(images, self._vae_labels(labels))
            y = q.sample(noise_encoder.to(self.dtype))
            p_x = self.vae.decode(y, self._vae_labels(labels))
            with torch.autocast(images.device.type, enabled=False):
                reconstruction = p_x.nll(images, self.levels, within=decoder_radius)
        return latent_terms(self.vdm, reconstruction, q, y, labels, times, noise)

    def _vae_labels(self, labels: Tensor | None) -> Tensor | None:
        return None if self.vae.classes is None else labels


def latent_terms(
    vdm: VDM,
    reconstruction: Tensor,
    q: Gaussian,
    y: Tensor,
    labels: Tensor | None,
    times: Tensor,
    noise: Tensor,
) -> LatentElboTerms:
    """The five terms from -log p(x | y), (B,), the encoder ``q``, its draw ``y`` and the VDM of y.

    ``times`` (B,) and ``noise`` (B,c,h,w): as for the VDM.
    """
    at, prior, diffusion = vdm.data_terms(y, labels, times, noise.to(y.dtype))
    per_dim = 0.5 * (1 + math.log(math.tau) + at.gamma_0.reshape(-1, *(1,) * (y.ndim - 1)))
    return LatentElboTerms(
        reconstruction=reconstruction,
        encoder=-q.entropy(),
        latent=per_dim.expand_as(y).flatten(1).sum(1),
        prior=prior,
        diffusion=diffusion,
    )


@torch.no_grad()
def sample_latent_vdm(
    model: LatentVDM,
    sample_ids: Tensor,
    labels: Tensor | None = None,
    *,
    shape: tuple[int, int, int],
    steps: int = 250,
    sampler: SamplerName | Sampler = "ancestral",
    grid: Grid = "t",
    guidance: Guidance | Sequence[Guidance] | None = None,
    seed: Seed = 0,
    decode: Decode = "argmax",
    progress: Callable[[int], None] | None = None,
) -> Tensor:
    """Generate images: (B,C,H,W) uint8, in [0, model.levels).

    The VDM's walk to z_0, then y and then the pixels: the mean of p(y | z_0) and the likeliest
    levels of p(x | y), or, where ``decode`` is "sample", a draw from both. ``shape`` is that of the
    images, (C,H,W); other arguments and errors are those of `samplers.sample`.
    """
    uniforms = decoding_uniforms(decode, seed, sample_ids, shape, model.dtype)
    z_0, gamma_0 = sample_z_0(
        model.vdm,
        sample_ids,
        labels,
        shape=model.latent_shape(shape),
        steps=steps,
        sampler=sampler,
        grid=grid,
        guidance=guidance,
        seed=seed,
        progress=progress,
    )
    alpha_0, _ = alpha_sigma(gamma_0)
    y = z_0 / alpha_0
    if uniforms is not None:
        latent = tuple(y.shape[1:])
        noise = normal(seed, Purpose.SAMPLE_DECODE, sample_ids, latent, step=1, dtype=model.dtype)
        y = y + torch.exp(gamma_0 / 2) * noise
    labels = None if labels is None else labels.to(sample_ids.device)
    with evaluation_mode(model):
        p_x = model.vae.decode(y, model._vae_labels(labels))
    return p_x.decode(model.levels, uniforms=uniforms)
