"""A U-Net that halves the resolution from level to level: for CPUs and for large images.

The layout follows Ho et al. 2020 (appendix B): residual blocks at every level, attention at the
lowest, and for each block on the way down a skip connection to one on the way up. The condition
scales and shifts (Dhariwal and Nichol 2021), because the gain from a Fourier feature to the noise
depends on gamma. Two things are the VDM paper's, for the sake of likelihood at full resolution:
Fourier features enter beside the latent, and the output is added to the latent, so that the network
starts as epsilon_hat = z.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdm_core.networks.blocks import UNetBlock, conv, group_norm
from vdm_core.networks.conditioning import Conditioning
from vdm_core.networks.fourier import FEATURES_PER_CHANNEL, with_fourier_features


class DownsamplingUNet(nn.Module):
    """U-Net with strided levels, whose output has the shape of the latent.

    Args:
        channels: image channels C.
        width: feature maps at full resolution.
        multipliers: the width of each level in units of `width`, from full resolution down. Each
            level halves the resolution, so H and W must be multiples of `self.divisor`.
        blocks: residual blocks per level, each way.
        attention_levels: how many of the lowest levels have attention after each of their blocks.
            The middle always has one.
        classes: number of classes, or None for an unconditional network.
        fourier_features: give the network Fourier features of the latent beside it.

    Raises:
        ValueError: no level, no block, or a widest level that is not an even number of 4 up.
    """

    def __init__(
        self,
        channels: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
        attention_levels: int = 0,
        classes: int | None = None,
        fourier_features: bool = True,
    ) -> None:
        super().__init__()
        widths = [width * multiplier for multiplier in multipliers]
        if not widths or blocks < 1:
            raise ValueError(
                f"multipliers {tuple(multipliers)}, blocks {blocks}: give 1 of each up"
            )
        self.classes = classes
        self.fourier_features = fourier_features
        self.divisor = 2 ** (len(widths) - 1)
        self.conditioning = Conditioning(max(widths), classes)
        inputs = channels * (1 + FEATURES_PER_CHANNEL) if fourier_features else channels
        self.conv_in = conv(inputs, widths[0])
        self.levels = _Level(widths, blocks, attention_levels, self.conditioning.features)
        self.norm_out = group_norm(widths[0])
        self.conv_out = conv(widths[0], channels, zero=True)

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the prediction, in the shape and dtype of z.

        Args:
            z: (B, C, H, W) latent, float32 or float64.
            gamma: (B,) negative log-SNR.
            labels: (B,) int64, -1 for no class; None is -1 throughout.

        Raises:
            ValueError: H or W is not a multiple of `self.divisor`, or a label is out of range.
        """
        height, width = z.shape[2:]
        if height % self.divisor or width % self.divisor:
            raise ValueError(
                f"images of {height} x {width} do not divide by {self.divisor}, as "
                f"{self.divisor.bit_length()} levels need; pad or crop them, or use fewer levels"
            )
        condition = self.conditioning(gamma, labels)
        inputs = with_fourier_features(z) if self.fourier_features else z
        h = self.levels(self.conv_in(inputs.to(self.conv_in.weight.dtype)), condition)
        residual: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return z + residual.to(z.dtype)


class _Level(nn.Module):
    """One resolution: its blocks on the way down, everything below it, its blocks on the way up."""

    def __init__(
        self,
        widths: Sequence[int],
        blocks: int,
        attention_levels: int,
        condition_features: int,
    ) -> None:
        super().__init__()
        here, *lower = widths
        attends = len(widths) <= attention_levels

        def block(inputs: int, attends: bool = attends) -> UNetBlock:
            return UNetBlock(inputs, here, condition_features, attends=attends, scales=True)

        self.down = nn.ModuleList(block(here) for _ in range(blocks))
        self.up = nn.ModuleList(block(2 * here) for _ in range(blocks))
        self.shrink: nn.Module = nn.Identity()
        self.grow: nn.Module = nn.Identity()
        if lower:
            self.shrink = conv(here, lower[0], stride=2)
            self.inner = nn.ModuleList(
                [_Level(lower, blocks, attention_levels, condition_features)]
            )
            self.grow = nn.Sequential(conv(lower[0], 4 * here, 1), nn.PixelShuffle(2))
        else:
            self.inner = nn.ModuleList([block(here, attends=True), block(here, attends=False)])

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(B, widths[0], H, W) and (B, condition_features) -> (B, widths[0], H, W)."""
        skips = []
        for block in self.down:
            h = block(h, condition)
            skips.append(h)
        h = self.shrink(h)
        for inner in self.inner:
            h = inner(h, condition)
        h = self.grow(h)
        for block in self.up:
            h = block(torch.cat([h, skips.pop()], dim=1), condition)
        return h
