"""What a noise-aware classifier learns: the class of an image from its noisy latent, at every t.

Guidance asks p(y | z_t, gamma_t) for the latents of one VDM, so the classifier is shown those: z_t
of the VDM's own schedule, at times stratified over [0, 1]. The schedule is given and stays.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdm_core.adaptive import AdaptiveSchedule
from vdm_core.decoder import encode
from vdm_core.diffusion import diffuse, image_mean
from vdm_core.family import Draw
from vdm_core.freeze import freeze
from vdm_core.inputs import check_images, check_label_shape, check_noise, check_times
from vdm_core.networks.classifier import NoiseAwareClassifier
from vdm_core.records import ClassifierTerms
from vdm_core.rng import Purpose
from vdm_core.schedule import Schedule


class ScheduledClassifier(nn.Module):
    """Cross-entropy and success of a classifier ``network`` on latents of a frozen ``schedule``.

    ``levels``: how many values a channel of the images takes. The schedule becomes constant (see
    ``freeze``). Raises ValueError for an adaptive schedule, whose latents depend on more than the
    image.
    """

    def __init__(
        self, network: NoiseAwareClassifier, schedule: Schedule, levels: int = 256
    ) -> None:
        super().__init__()
        if isinstance(schedule, AdaptiveSchedule):
            raise ValueError(
                "an AdaptiveSchedule has a latent of its own, which no classifier infers: give the "
                "schedule of another VDM"
            )
        self.network = network
        self.schedule = freeze(schedule)
        self.levels = levels

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
        """The names of what is descended."""
        return ("cross_entropy",)

    def draws(self, shape: tuple[int, int, int]) -> dict[str, Draw]:
        """The random arguments of ``forward`` for images of this ``shape``, (C,H,W), by name."""
        return {"times": Draw(Purpose.TIMES), "noise": Draw(Purpose.NOISE, shape)}

    def forward(
        self,
        images: Tensor,
        labels: Tensor | None = None,
        *,
        times: Tensor,
        noise: Tensor,
        decoder_radius: int | None = None,
    ) -> ClassifierTerms:
        """How the labels (B,) int64 of ``images`` (B,C,H,W) uint8 are told from z_t.

        ``times`` (B,) in [0, 1], ``noise`` (B,C,H,W) of z_t. A label of -1 is none: both terms are
        0 there. ``decoder_radius`` says nothing here. Raises TypeError or ValueError for a wrong
        dtype or shape, and where there are no labels.
        """
        check_images(images, self.levels)
        check_label_shape(labels, len(images))
        if labels is None:
            raise ValueError("a classifier learns labels, and there are none")
        check_noise(noise, "noise", tuple(images.shape))
        check_times(times, len(images))
        with torch.autocast(images.device.type, enabled=False):
            gamma = self.schedule(times).gamma
            z = diffuse(encode(images, self.levels), gamma, noise).z
        logits = self.network(z, image_mean(gamma)).float()
        return ClassifierTerms(
            cross_entropy=F.cross_entropy(logits, labels, ignore_index=-1, reduction="none"),
            correct=(logits.argmax(1) == labels).to(logits.dtype),
        )
