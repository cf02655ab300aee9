"""The variational diffusion model: network + schedule + decoder, one module that maps images to
their ELBO terms (Kingma et al. 2021).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from vdm_core import elbo
from vdm_core.decoder import encode
from vdm_core.diffusion import diffuse
from vdm_core.prediction import Prediction, check_prediction
from vdm_core.records import ElboTerms
from vdm_core.schedule import Schedule


class VDM(nn.Module):
    """The negative ELBO of images under a denoising ``network`` and a noise ``schedule``.

    ``network(z, gamma, labels)`` answers (B,C,H,W) for z (B,C,H,W), gamma (B,) and labels (B,)
    int64 or None. ``levels``: how many values a channel of the images takes, 2 to 256. ``steps``: T
    for discrete time, None for continuous time. ``prediction``: what the network's answer is,
    "epsilon", "x", "v" or "score". Raises ValueError for values outside these.

    Everything but the network runs in float32 (float64 where the module is), also under autocast.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        levels: int = 256,
        steps: int | None = None,
        prediction: Prediction = "epsilon",
    ) -> None:
        super().__init__()
        if not 2 <= levels <= 256:
            raise ValueError(f"levels is {levels}: uint8 images have 2 to 256 levels")
        if steps is not None and steps < 1:
            raise ValueError(f"steps is {steps}: give at least 1, or None for continuous time")
        check_prediction(prediction)
        self.network = network
        self.schedule = schedule
        self.levels = levels
        self.steps = steps
        self.prediction: Prediction = prediction

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the terms: float64 if the module is, else float32."""
        first = next(self.network.parameters(), self.schedule.ends.end_0)
        dtype = torch.promote_types(first.dtype, self.schedule.ends.end_0.dtype)
        return torch.promote_types(dtype, torch.float32)

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        times: Tensor | None = None,
        noise: Tensor | None = None,
        noise_0: Tensor | None = None,
        generator: torch.Generator | None = None,
        decoder_radius: int | None = None,
    ) -> ElboTerms:
        """The ELBO terms of ``images`` (B,C,H,W) uint8 with ``labels`` (B,) int64 or None.

        ``times`` (B,) in [0, 1], ``noise`` of z_t and ``noise_0`` of z_0, both (B,C,H,W), are drawn
        where they are not given, from ``generator`` or else torch's default one; the times are then
        stratified over the batch. ``decoder_radius``: ``within`` of ``decoder.log_prob``, to spare
        an accelerator the wait for gamma(0). Raises TypeError or ValueError for a wrong dtype or
        shape, and for times or levels out of range where the tensors are on the CPU.
        """
        _check_images(images, self.levels)
        _check_labels(labels, len(images))
        shape, dtype = tuple(images.shape), self.dtype
        times = _or_stratified(times, images, generator)
        noise = _or_normal(noise, "noise", images, dtype, generator)
        noise_0 = _or_normal(noise_0, "noise_0", images, dtype, generator)

        with torch.autocast(images.device.type, enabled=False):
            x = encode(images, self.levels, dtype)
            at = elbo.noise_levels(self.schedule, times, self.steps, dtype)
            z_t = diffuse(x, at.gamma_t, noise)

        answer = self.network(z_t.z, z_t.gamma, labels)
        if answer.shape != shape:
            raise ValueError(f"the network answered {tuple(answer.shape)} for images {shape}")

        with torch.autocast(images.device.type, enabled=False):
            z_0 = diffuse(x, at.gamma_0, noise_0)
            return ElboTerms(
                reconstruction=elbo.reconstruction(
                    images, z_0.z, at.gamma_0, self.levels, within=decoder_radius
                ),
                prior=elbo.prior(x, at.gamma_1),
                diffusion=elbo.diffusion(
                    answer.to(dtype), x, noise, at.gamma_t, at.weight, self.prediction
                ),
            )


def _check_images(images: Tensor, levels: int) -> None:
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}: give uint8 in [0, {levels})")
    if images.ndim != 4 or images.numel() == 0:
        raise ValueError(f"images have shape {tuple(images.shape)}: give a non-empty (B,C,H,W)")
    if levels < 256 and images.device.type == "cpu" and images.max() >= levels:
        raise ValueError(f"images reach {images.max()}: with {levels} levels, stay below {levels}")


def _check_labels(labels: Tensor | None, batch: int) -> None:
    if labels is None:
        return
    if labels.shape != (batch,) or labels.dtype != torch.int64:
        raise ValueError(
            f"labels are {labels.dtype} of shape {tuple(labels.shape)}: give int64 of ({batch},)"
        )


def _or_stratified(
    times: Tensor | None, images: Tensor, generator: torch.Generator | None
) -> Tensor:
    """``times`` once checked, or (u + i) / B for i in 0 .. B-1 with one uniform u."""
    batch = len(images)
    if times is None:
        u = torch.rand(1, generator=generator, device=images.device)
        return (u + torch.arange(batch, device=images.device)) / batch
    if times.shape != (batch,) or not times.is_floating_point():
        raise ValueError(
            f"times are {times.dtype} of shape {tuple(times.shape)}: give floats of ({batch},)"
        )
    if times.device.type == "cpu" and not ((times >= 0) & (times <= 1)).all():
        raise ValueError(f"times range over [{times.min()}, {times.max()}]: stay inside [0, 1]")
    return times


def _or_normal(
    noise: Tensor | None,
    name: str,
    images: Tensor,
    dtype: torch.dtype,
    generator: torch.Generator | None,
) -> Tensor:
    """``noise`` once checked, or standard normals, shaped like ``images``."""
    if noise is None:
        return torch.randn(images.shape, generator=generator, device=images.device, dtype=dtype)
    if noise.shape != images.shape:
        raise ValueError(f"{name} has shape {tuple(noise.shape)}, images {tuple(images.shape)}")
    return noise.to(dtype)
