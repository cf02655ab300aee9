"""The convolutional networks of the VAEs: image to features, latents to Gaussian, latents to image.

All are residual (pre-activation, each branch starting at zero). A label adds a learned vector to a
network's first feature maps; no label (-1) adds the all-zero vector, as in the VDM's networks. What
becomes a number of the bound leaves through a last layer that runs in float32 also under autocast.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdm_core.labels import NO_LABEL, check_labels
from vdm_core.ladder.gaussian import Gaussian
from vdm_core.ladder.pixels import PixelLikelihood
from vdm_core.networks.blocks import conv, group_norm

GAMMA_RANGE = (-14.0, 2.0)
"""Log variances of a pixel: from a ninth of the distance of two levels to wider than all 256."""

GAMMA_START = -2.0
"""The log variance of a pixel before training."""

LARGEST_LOG_STD = 5.0
"""Log standard deviations of latents stay within +- this, so that no divergence overflows."""


def full_precision(values: Tensor) -> AbstractContextManager[object]:
    """No autocast inside, on the device of ``values``; the meta device has none anyway."""
    if values.is_meta:
        return nullcontext()
    return torch.autocast(values.device.type, enabled=False)


class Residual(nn.Module):
    """Norm, SiLU, 3x3 convolution, twice, plus the input: (B,width,H,W) to the same."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm_1, self.conv_1 = group_norm(width), conv(width, width)
        self.norm_2, self.conv_2 = group_norm(width), conv(width, width, zero=True)

    def forward(self, h: Tensor) -> Tensor:
        """h + branch(h)."""
        branch = self.conv_1(F.silu(self.norm_1(h)))
        output: Tensor = h + self.conv_2(F.silu(self.norm_2(branch)))
        return output


class Entry(nn.Module):
    """The first layer of each network: a 3x3 convolution, plus the label's vector.

    Raises ValueError for a label that is none of ``classes``, where labels are on the CPU.
    """

    def __init__(self, inputs: int, width: int, classes: int | None) -> None:
        super().__init__()
        self.classes = classes
        self.conv = conv(inputs, width)
        self.label = None if classes is None else nn.Embedding(classes, width)

    def forward(self, inputs: Tensor, labels: Tensor | None) -> Tensor:
        """(B,inputs,H,W) and (B,) int64 or None -> (B,width,H,W)."""
        check_labels(labels, self.classes)
        h: Tensor = self.conv(inputs.to(self.conv.weight.dtype))
        if self.label is None:
            return h
        if labels is None:
            labels = torch.full((len(h),), NO_LABEL, device=h.device)
        vectors: Tensor = self.label(labels.clamp(min=0)) * (labels != NO_LABEL)[:, None]
        return h + vectors[:, :, None, None]


class Exit(nn.Module):
    """The last layer of a network: norm, SiLU, 3x3 convolution that starts at zero, in float32."""

    def __init__(self, width: int, outputs: int) -> None:
        super().__init__()
        self.norm = group_norm(width)
        self.conv = conv(width, outputs, zero=True)

    def forward(self, h: Tensor) -> Tensor:
        """(B,width,H,W) -> (B,outputs,H,W), float32 (float64 where the weights are)."""
        with full_precision(h):
            h = h.to(self.conv.weight.dtype)
            output: Tensor = self.conv(F.silu(self.norm(h)))
            return output.to(torch.promote_types(output.dtype, torch.float32))


class ImageEncoder(nn.Module):
    """Scaled images (B,C,H,W) to features (B,widths[-1],h,w), each level half the size of the last.

    ``widths``: feature maps of each level, from full resolution down. ``blocks``: residual blocks
    of each.
    """

    def __init__(
        self, channels: int, widths: Sequence[int], blocks: int, classes: int | None
    ) -> None:
        super().__init__()
        self.entry = Entry(channels, widths[0], classes)
        body: list[nn.Module] = [Residual(widths[0]) for _ in range(blocks)]
        for above, here in pairwise(widths):
            body += [conv(above, here, stride=2), *(Residual(here) for _ in range(blocks))]
        self.body = nn.Sequential(*body)

    def forward(self, x: Tensor, labels: Tensor | None) -> Tensor:
        """The features of scaled images ``x`` with ``labels`` (B,) or None."""
        features: Tensor = self.body(self.entry(x, labels))
        return features


class ImageDecoder(nn.Module):
    """Latents (B,inputs,h,w) to the likelihood of images (B,C,H,W): the way back up.

    ``widths`` and ``blocks``: as for ``ImageEncoder``. Each pixel has a mean of its own and a
    variance of its own, since in most images some places are certain and others are not.
    """

    def __init__(
        self, inputs: int, channels: int, widths: Sequence[int], blocks: int, classes: int | None
    ) -> None:
        super().__init__()
        upwards = widths[::-1]
        self.entry = Entry(inputs, upwards[0], classes)
        body: list[nn.Module] = [Residual(upwards[0]) for _ in range(blocks)]
        for below, here in pairwise(upwards):
            grow = nn.Sequential(conv(below, 4 * here, 1), nn.PixelShuffle(2))
            body += [grow, *(Residual(here) for _ in range(blocks))]
        self.body = nn.Sequential(*body)
        self.exit = Exit(upwards[-1], 2 * channels)

    def forward(self, latents: Tensor, labels: Tensor | None) -> PixelLikelihood:
        """p(x | latents), with log variances within GAMMA_RANGE."""
        mean, raw = self.exit(self.body(self.entry(latents, labels))).chunk(2, dim=1)
        lowest, highest = GAMMA_RANGE
        start = math.log((GAMMA_START - lowest) / (highest - GAMMA_START))
        return PixelLikelihood(mean, lowest + (highest - lowest) * torch.sigmoid(raw + start))


class GaussianNet(nn.Module):
    """Feature maps (B,inputs,h,w) to a Gaussian of latents (B,outputs,h,w): at first N(0, I)."""

    def __init__(
        self, inputs: int, outputs: int, width: int, blocks: int, classes: int | None
    ) -> None:
        super().__init__()
        self.entry = Entry(inputs, width, classes)
        self.body = nn.Sequential(*(Residual(width) for _ in range(blocks)))
        self.exit = Exit(width, 2 * outputs)

    def forward(self, h: Tensor, labels: Tensor | None) -> Gaussian:
        """The Gaussian, with log standard deviations within +- LARGEST_LOG_STD."""
        mean, raw = self.exit(self.body(self.entry(h, labels))).chunk(2, dim=1)
        return Gaussian(mean, LARGEST_LOG_STD * torch.tanh(raw / LARGEST_LOG_STD))


class LatentGrid:
    """Where latents of ``channels`` channels lie: on images, ``levels - 1`` times halved.

    Raises ValueError for less than one of each.
    """

    def __init__(self, channels: int, levels: int) -> None:
        if min(channels, levels) < 1:
            raise ValueError(
                f"latent_channels is {channels} and there are {levels} widths: give 1 of each up"
            )
        self.channels = channels
        self.divisor = 2 ** (levels - 1)

    def shape(self, image: tuple[int, int, int]) -> tuple[int, int, int]:
        """(c,h,w) for images (C,H,W). Raises ValueError where H or W does not divide."""
        _, height, width = image
        if height % self.divisor or width % self.divisor:
            raise ValueError(
                f"images of {height} x {width} do not divide by {self.divisor}, as this model's "
                "widths need; pad or crop them, or give fewer widths"
            )
        return self.channels, height // self.divisor, width // self.divisor
