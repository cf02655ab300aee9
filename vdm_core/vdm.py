"""The variational diffusion model: network + schedule + decoder, one module that maps images to
their ELBO terms (Kingma et al. 2021).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from vdm_core import elbo
from vdm_core.adaptive import AdaptiveSchedule
from vdm_core.decoder import encode
from vdm_core.diffusion import diffuse
from vdm_core.family import Draw
from vdm_core.inputs import check_images, check_label_shape, check_times
from vdm_core.prediction import Prediction, check_prediction
from vdm_core.records import AdaptiveElboTerms, ElboTerms, SchedulePoint
from vdm_core.rng import Purpose
from vdm_core.schedule import Schedule
from vdm_core.variance import VarianceGradient

ScheduleObjective = Literal["elbo", "variance"]


class DataTerms(NamedTuple):
    """The ``prior`` and ``diffusion`` terms of data, (B,) each, nats, ``at`` these noise levels."""

    at: elbo.NoiseLevels
    prior: Tensor
    diffusion: Tensor


class VDM(nn.Module):
    """The negative ELBO of images under a denoising ``network`` and a noise ``schedule``.

    ``network(z, gamma, labels)`` answers (B,C,H,W) for z (B,C,H,W), gamma (B,) and labels (B,)
    int64 or None. ``levels``: how many values a channel of the images takes, 2 to 256. ``steps``: T
    for discrete time, None for continuous time. ``prediction``: what the network's answer is,
    "epsilon", "x", "v" or "score". ``schedule_objective``: what the shape of the schedule between
    its ends descends, the "elbo" like all else, or the "variance" of its estimate (see
    ``vdm_core.variance``), which asks for a schedule with a learned shape. Raises ValueError for
    values outside these.

    Where the schedule has a gamma for each pixel, the network is told their mean over the image.
    Everything but the network runs in float32 (float64 where the module is), also under autocast.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        levels: int = 256,
        steps: int | None = None,
        prediction: Prediction = "epsilon",
        schedule_objective: ScheduleObjective = "elbo",
    ) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise ValueError(f"levels is {levels}: uint8 images have 2 to 256 levels")
        if steps is not None and steps < 1:
            raise ValueError(f"steps is {steps}: give at least 1, or None for continuous time")
        check_prediction(prediction)
        _check_objective(schedule_objective, schedule)
        self.network = network
        self.schedule = schedule
        self.levels = levels
        self.steps = steps
        self.prediction: Prediction = prediction
        self.schedule_objective: ScheduleObjective = schedule_objective

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the terms: float64 if the module is, else float32."""
        first = next(self.network.parameters(), self.schedule.ends.end_0)
        dtype = torch.promote_types(first.dtype, self.schedule.ends.end_0.dtype)
        return torch.promote_types(dtype, torch.float32)

    @property
    def latent_dim(self) -> int | None:
        """The size of an adaptive schedule's latent; None for other schedules."""
        return self.schedule.latent_dim if isinstance(self.schedule, AdaptiveSchedule) else None

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """The network."""
        return (self.network,)

    @property
    def islands(self) -> tuple[nn.Module, ...]:
        """The schedule."""
        return (self.schedule,)

    @property
    def term_names(self) -> tuple[str, ...]:
        """The names of the terms that ``forward`` returns, in their order."""
        adaptive = isinstance(self.schedule, AdaptiveSchedule)
        return (AdaptiveElboTerms if adaptive else ElboTerms)._fields

    def draws(self, shape: tuple[int, int, int]) -> dict[str, Draw]:
        """The random arguments of ``forward`` for images of this ``shape``, (C,H,W), by name."""
        draws = {
            "times": Draw(Purpose.TIMES),
            "noise": Draw(Purpose.NOISE, shape),
            "noise_0": Draw(Purpose.NOISE_0, shape),
        }
        if self.latent_dim is not None:
            draws["noise_latent"] = Draw(Purpose.LATENT, (self.latent_dim,))
        return draws

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        times: Tensor | None = None,
        noise: Tensor | None = None,
        noise_0: Tensor | None = None,
        noise_latent: Tensor | None = None,
        generator: torch.Generator | None = None,
        decoder_radius: int | None = None,
    ) -> ElboTerms | AdaptiveElboTerms:
        """The ELBO terms of ``images`` (B,C,H,W) uint8 with ``labels`` (B,) int64 or None.

        ``times`` (B,) in [0, 1], ``noise`` of z_t and ``noise_0`` of z_0, both (B,C,H,W), and, for
        an adaptive schedule, ``noise_latent`` (B,d) of its latent, are drawn where they are not
        given, from ``generator`` or else torch's default one; the times are then stratified over
        the batch. An adaptive schedule makes the terms ``AdaptiveElboTerms``. ``decoder_radius``:
        ``within`` of ``decoder.log_prob``, to spare an accelerator the wait for gamma(0). Raises
        TypeError or ValueError for a wrong dtype or shape, and for times or levels out of range
        where the tensors are on the CPU.
        """
        check_images(images, self.levels)
        check_label_shape(labels, len(images))
        shape, dtype = tuple(images.shape), self.dtype
        times = _or_stratified(times, images, generator)
        noise = _or_normal(noise, "noise", images, shape, dtype, generator)
        noise_0 = _or_normal(noise_0, "noise_0", images, shape, dtype, generator)

        with torch.autocast(images.device.type, enabled=False):
            x = encode(images, self.levels, dtype)
            latent = kl = None
            if isinstance(self.schedule, AdaptiveSchedule):
                size = (len(images), self.schedule.latent_dim)
                c_noise = _or_normal(noise_latent, "noise_latent", images, size, dtype, generator)
                latent, kl, _ = self.schedule.infer(x, c_noise)

        at, prior, diffusion = self.data_terms(x, labels, times, noise, latent)

        with torch.autocast(images.device.type, enabled=False):
            z_0 = diffuse(x, at.gamma_0, noise_0)
            terms = ElboTerms(
                reconstruction=elbo.reconstruction(
                    images, z_0.z, at.gamma_0, self.levels, within=decoder_radius
                ),
                prior=prior,
                diffusion=diffusion,
            )
            return terms if kl is None else AdaptiveElboTerms(*terms, auxiliary=kl)

    def data_terms(
        self,
        x: Tensor,
        labels: Tensor | None,
        times: Tensor,
        noise: Tensor,
        latent: Tensor | None = None,
    ) -> DataTerms:
        """The terms that do not depend on how z_0 becomes data, of data ``x`` (B,C,H,W).

        ``x``: scaled images, or any other data of about unit size, such as latents of a VAE.
        ``latent``: c (B,d), for an adaptive schedule. Other arguments as for ``forward``.
        """
        schedule: Callable[..., SchedulePoint] = self.schedule
        shape_gradient = VarianceGradient()
        if self.schedule_objective == "variance":
            schedule = partial(self.schedule, watch=shape_gradient.watch)

        with torch.autocast(x.device.type, enabled=False):
            at = elbo.noise_levels(schedule, times, self.steps, x.dtype, latent)
            z_t = diffuse(x, at.gamma_t, noise)

        answer = self.network(z_t.z, at.network_gamma, labels)
        if answer.shape != x.shape:
            raise ValueError(
                f"the network answered {tuple(answer.shape)} for data {tuple(x.shape)}"
            )

        with torch.autocast(x.device.type, enabled=False):
            answer = answer.to(x.dtype)
            terms = DataTerms(
                at=at,
                prior=elbo.prior(x, at.gamma_1),
                diffusion=elbo.diffusion(answer, x, noise, at.gamma_t, at.weight, self.prediction),
            )
            shape_gradient.weigh(terms.diffusion, x[0].numel())
            return terms


def _check_objective(objective: ScheduleObjective, schedule: Schedule) -> None:
    if objective not in get_args(ScheduleObjective):
        raise ValueError(
            f"unknown schedule_objective {objective!r}: give "
            + " or ".join(map(repr, get_args(ScheduleObjective)))
        )
    scalar_shape = not schedule.per_pixel and next(schedule.warp.parameters(), None) is not None
    if objective == "variance" and not scalar_shape:
        raise ValueError(
            f"schedule_objective is 'variance', but a {type(schedule).__name__} has no shape to "
            "learn that is one for all pixels: give a MonotoneSchedule, or "
            "schedule_objective='elbo'"
        )


def _or_stratified(
    times: Tensor | None, images: Tensor, generator: torch.Generator | None
) -> Tensor:
    """``times`` once checked, or (u + i) / B for i in 0 .. B-1 with one uniform u."""
    batch = len(images)
    if times is None:
        u = torch.rand(1, generator=generator, device=images.device)
        return (u + torch.arange(batch, device=images.device)) / batch
    check_times(times, batch)
    return times


def _or_normal(
    noise: Tensor | None,
    name: str,
    images: Tensor,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> Tensor:
    """``noise`` once checked, or standard normals, of ``shape``."""
    if noise is None:
        return torch.randn(shape, generator=generator, device=images.device, dtype=dtype)
    if noise.shape != shape:
        raise ValueError(f"{name} has shape {tuple(noise.shape)}, images {tuple(images.shape)}")
    return noise.to(dtype)
