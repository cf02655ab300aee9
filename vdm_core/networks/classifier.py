"""A classifier of noisy latents, p(y | z_t, gamma_t), to steer a diffusion model by its gradient.

It is the way down of a U-Net: residual blocks told the noise level, halving the resolution from
level to level, with attention at the lowest; the mean over all positions gives the logits
(Dhariwal and Nichol 2021, section 4). Nothing in it mixes examples, so that the gradient of one
example's log-probability is a function of that example alone.
"""

from collections.abc import Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import Tensor, nn

from vdm_core.networks.blocks import AttentionBlock, ResidualBlock, conv, group_norm, linear
from vdm_core.networks.conditioning import Conditioning


class NoiseAwareClassifier(nn.Module):
    """Logits of the classes of a latent at a known noise level; all zero at the start.

    Args:
        channels: image channels C.
        classes: number of classes, at least 2.
        width: feature maps at full resolution.
        multipliers: the width of each level in units of `width`, from full resolution down.
        blocks: residual blocks per level.

    Raises:
        ValueError: fewer than 2 classes, no level, no block, or a widest level that is not an even
            number of 4 up.
    """

    def __init__(
        self,
        channels: int,
        classes: int,
        width: int = 32,
        multipliers: Sequence[int] = (1, 2, 2),
        blocks: int = 1,
    ) -> None:
        super().__init__()
        widths = [width * multiplier for multiplier in multipliers]
        if classes < 2 or not widths or blocks < 1:
            raise ValueError(
                f"classes {classes}, multipliers {tuple(multipliers)}, blocks {blocks}: give 2 "
                "classes, 1 multiplier and 1 block, or more"
            )
        self.classes = classes
        self.conditioning = Conditioning(max(widths))
        entries = [conv(channels, widths[0])]
        entries += [conv(above, here, stride=2) for above, here in pairwise(widths)]
        self.levels = nn.ModuleList(
            _Level(entry, here, blocks, self.conditioning.features)
            for entry, here in zip(entries, widths, strict=True)
        )
        self.attention = AttentionBlock(widths[-1])
        self.norm_out = group_norm(widths[-1])
        self.out = linear(widths[-1], classes, zero=True)

    def forward(self, z: Tensor, gamma: Tensor) -> Tensor:
        """Return the logits (B, classes), in the dtype of z.

        Args:
            z: (B, C, H, W) latent, float32 or float64, of any size.
            gamma: (B,) negative log-SNR, float32 or float64.
        """
        logits: Tensor = self.out(self.features(z, gamma))
        return logits.to(z.dtype)

    def features(self, z: Tensor, gamma: Tensor) -> Tensor:
        """What the logits are a linear map of: (B, widest level), in the network's dtype."""
        condition = self.conditioning(gamma)
        h = z.to(self.out.weight.dtype)
        for level in self.levels:
            h = level(h, condition)
        h = F.silu(self.norm_out(self.attention(h)))
        return h.mean(dim=(2, 3))


class _Level(nn.Module):
    """The convolution that leads to a resolution, and the residual blocks at it."""

    def __init__(self, entry: nn.Module, width: int, blocks: int, condition_features: int) -> None:
        super().__init__()
        self.entry = entry
        self.blocks = nn.ModuleList(
            ResidualBlock(width, width, condition_features, scales=True) for _ in range(blocks)
        )

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(B, C, H, W) and (B, condition_features) -> (B, width, H, W), or half that size."""
        h = self.entry(h)
        for block in self.blocks:
            h = block(h, condition)
        return h
