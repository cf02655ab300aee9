"""A transformer over patches of the latent: the diffusion transformer (Peebles and Xie 2023).

Each patch becomes a token with a fixed position code. Each block is told the noise level and the
class by adaptive layer norm: six vectors made from the condition scale and shift what enters its
two branches and gate what leaves them. All six start at zero (adaLN-Zero), and so does the last
layer, so that a new network answers the latent itself, epsilon_hat = z, like the U-Nets here.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdm_core.networks.blocks import linear
from vdm_core.networks.conditioning import Conditioning
from vdm_core.networks.fourier import FEATURES_PER_CHANNEL, with_fourier_features


def position_code(rows: int, columns: int, width: int, device: torch.device) -> Tensor:
    """Fixed codes of the cells of a grid, (rows columns, width), float32, row by row.

    A quarter of the features each is the sine and the cosine of the row number, at rates that fall
    geometrically from 1 towards 1e-4, and then of the column number (Vaswani et al. 2017, section
    3.5, in two dimensions). ``width`` is a multiple of 4.
    """
    rates = torch.arange(width // 4, device=device, dtype=torch.float32) / (width // 4)
    rates = torch.exp(-math.log(10_000.0) * rates)
    by_row, by_column = (
        torch.arange(size, device=device, dtype=torch.float32)[:, None] * rates
        for size in (rows, columns)
    )
    by_row = torch.cat([by_row.sin(), by_row.cos()], dim=1)[:, None].expand(-1, columns, -1)
    by_column = torch.cat([by_column.sin(), by_column.cos()], dim=1).expand(rows, -1, -1)
    return torch.cat([by_row, by_column], dim=2).flatten(0, 1)


def modulate(tokens: Tensor, shift: Tensor, scale: Tensor) -> Tensor:
    """Normalise each token (B, N, width); scale and shift it by the (B, width) of its example.

    The layer norm has no weights of its own and runs in float32 at least.
    """
    wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
    normed = F.layer_norm(wide, tokens.shape[-1:], eps=1e-6).to(tokens.dtype)
    return torch.addcmul(shift[:, None], normed, 1 + scale[:, None])


class SelfAttention(nn.Module):
    """Attention of all tokens to all tokens, in ``heads`` heads."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = linear(width, 3 * width)
        self.out = linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        """(B, N, width) -> the same shape."""
        joint = self.query_key_value(tokens).unflatten(2, (3, self.heads, -1))
        query, key, value = joint.permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        output: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return output


class DiTBlock(nn.Module):
    """Attention and a two-layer MLP, each inside an adaptive layer norm and a gate."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.condition = linear(width, 6 * width, zero=True)
        self.attention = SelfAttention(width, heads)
        self.mlp = nn.Sequential(
            linear(width, 4 * width), nn.GELU(approximate="tanh"), linear(4 * width, width)
        )

    def forward(self, tokens: Tensor, condition: Tensor) -> Tensor:
        """(B, N, width) and (B, width) -> (B, N, width)."""
        shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = self.condition(condition).chunk(6, 1)
        branch = self.attention(modulate(tokens, shift_1, scale_1))
        tokens = torch.addcmul(tokens, gate_1[:, None], branch)
        branch = self.mlp(modulate(tokens, shift_2, scale_2))
        return torch.addcmul(tokens, gate_2[:, None], branch)


class DiT(nn.Module):
    """Transformer whose output has the shape of the latent; any size that the patch divides.

    Args:
        channels: image channels C.
        width: features of a token, a multiple of 8 and of ``heads``, at least 16.
        depth: number of blocks.
        heads: attention heads of each block.
        patch: side of the square patches; H and W must be multiples of it.
        classes: number of classes, or None for an unconditional network.
        fourier_features: give the network Fourier features of the latent beside it.

    Raises:
        ValueError: a number outside these.
    """

    def __init__(
        self,
        channels: int,
        width: int = 384,
        depth: int = 12,
        heads: int = 6,
        patch: int = 2,
        classes: int | None = None,
        fourier_features: bool = True,
    ) -> None:
        super().__init__()
        if min(depth, heads, patch) < 1:
            raise ValueError(f"depth {depth}, heads {heads}, patch {patch}: give 1 of each up")
        if width < 16 or width % math.lcm(8, heads):
            raise ValueError(
                f"width is {width}: give at least 16, and a multiple of 8 and of heads ({heads})"
            )
        self.classes = classes
        self.fourier_features = fourier_features
        self.patch = patch
        self.width = width
        self.conditioning = Conditioning(width // 4, classes)
        inputs = channels * (1 + FEATURES_PER_CHANNEL) if fourier_features else channels
        self.patches_in = linear(inputs * patch**2, width)
        self.blocks = nn.ModuleList(DiTBlock(width, heads) for _ in range(depth))
        self.condition_out = linear(width, 2 * width, zero=True)
        self.patches_out = linear(width, channels * patch**2, zero=True)

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the prediction, in the shape and dtype of z.

        Args:
            z: (B, C, H, W) latent, float32 or float64.
            gamma: (B,) negative log-SNR.
            labels: (B,) int64, -1 for no class; None is -1 throughout.

        Raises:
            ValueError: H or W is not a multiple of the patch, or a label is out of range.
        """
        height, width = z.shape[2:]
        if height % self.patch or width % self.patch:
            raise ValueError(
                f"images of {height} x {width} do not divide into patches of {self.patch} x "
                f"{self.patch}; pad or crop them, or use another patch"
            )
        condition = self.conditioning(gamma, labels)
        inputs = with_fourier_features(z) if self.fourier_features else z
        grid = (height // self.patch, width // self.patch)
        patches = F.pixel_unshuffle(inputs, self.patch).flatten(2).transpose(1, 2)
        tokens = self.patches_in(patches.to(self.patches_in.weight.dtype))
        tokens = tokens + position_code(*grid, self.width, z.device).to(tokens.dtype)
        for block in self.blocks:
            tokens = block(tokens, condition)
        shift, scale = self.condition_out(condition).chunk(2, 1)
        patches = self.patches_out(modulate(tokens, shift, scale))
        residual = F.pixel_shuffle(patches.transpose(1, 2).unflatten(2, grid), self.patch)
        return z + residual.to(z.dtype)
