"""The parts both U-Nets are made of: residual block, attention block, and their initialisation.

Each block adds to its input a branch whose last layer starts at zero, so that a network starts as
the identity (Kingma et al. 2021, appendix B; Ho et al. 2020, appendix B).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def linear(inputs: int, outputs: int, *, bias: bool = True, zero: bool = False) -> nn.Linear:
    """Return a linear layer with weights of variance 1/fan-in (or zero) and zero bias."""
    layer = nn.Linear(inputs, outputs, bias=bias)
    _initialise(layer, zero)
    return layer


def conv(
    inputs: int, outputs: int, size: int = 3, *, stride: int = 1, zero: bool = False
) -> nn.Conv2d:
    """Return a zero-padded convolution with weights of variance 1/fan-in (or zero), zero bias."""
    layer = nn.Conv2d(inputs, outputs, size, stride=stride, padding=size // 2)
    _initialise(layer, zero)
    return layer


def _initialise(layer: nn.Linear | nn.Conv2d, zero: bool) -> None:
    if zero:
        nn.init.zeros_(layer.weight)
    else:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def group_norm(channels: int) -> nn.GroupNorm:
    """Return a group norm with eps 1e-6, in 32 groups or as many as leave 4 channels to each.

    torch takes a group's mean and variance in float32 also where its input is bfloat16 or float16.
    """
    return nn.GroupNorm(math.gcd(32, max(1, channels // 4)), channels, eps=1e-6)


class ResidualBlock(nn.Module):
    """Norm, SiLU, 3x3 convolution; condition, norm, SiLU, 3x3 convolution; plus the input.

    The condition is added before the second norm (Kingma et al. 2021), or, if `scales`, scales and
    shifts what comes out of it (Dhariwal and Nichol 2021, section 3.1). Where the number of
    channels changes, the input goes through a 1x1 convolution.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        condition_features: int,
        scales: bool = False,
    ) -> None:
        super().__init__()
        self.scales = scales
        self.norm_1 = group_norm(inputs)
        self.conv_1 = conv(inputs, outputs)
        self.condition = linear(
            condition_features, 2 * outputs if scales else outputs, bias=False, zero=True
        )
        self.norm_2 = group_norm(outputs)
        self.conv_2 = conv(outputs, outputs, zero=True)
        self.skip = nn.Identity() if inputs == outputs else conv(inputs, outputs, 1)

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(B, inputs, H, W) and (B, condition_features) -> (B, outputs, H, W)."""
        branch = self.conv_1(F.silu(self.norm_1(h)))
        condition = self.condition(condition)[:, :, None, None]
        if self.scales:
            scale, shift = condition.chunk(2, dim=1)
            branch = torch.addcmul(shift, self.norm_2(branch), 1 + scale)
        else:
            branch = self.norm_2(branch + condition)
        branch = self.conv_2(F.silu(branch))
        output: Tensor = self.skip(h) + branch
        return output


class AttentionBlock(nn.Module):
    """Residual self-attention with one head over all H W positions."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = group_norm(channels)
        self.query_key_value = linear(channels, 3 * channels)
        self.out = linear(channels, channels, zero=True)

    def forward(self, h: Tensor) -> Tensor:
        """(B, channels, H, W) -> the same shape."""
        tokens = self.norm(h).flatten(2).transpose(1, 2)
        query, key, value = self.query_key_value(tokens).unsqueeze(1).chunk(3, dim=-1)
        mixed = F.scaled_dot_product_attention(query, key, value).squeeze(1)
        output: Tensor = h + self.out(mixed).transpose(1, 2).reshape(h.shape)
        return output


class UNetBlock(nn.Module):
    """A residual block, with attention after it or not."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        condition_features: int,
        *,
        attends: bool,
        scales: bool = False,
    ) -> None:
        super().__init__()
        self.residual = ResidualBlock(inputs, outputs, condition_features, scales)
        self.attention = AttentionBlock(outputs) if attends else nn.Identity()

    def forward(self, h: Tensor, condition: Tensor) -> Tensor:
        """(B, inputs, H, W) and (B, condition_features) -> (B, outputs, H, W)."""
        attended: Tensor = self.attention(self.residual(h, condition))
        return attended
