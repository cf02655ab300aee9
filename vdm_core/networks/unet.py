"""The score network of Variational Diffusion Models (Kingma et al. 2021, appendix B).

A U-Net in its skip connections only: every block works at full resolution, which is what likelihood
in bits per dimension asks for. With channels=3, width=128, blocks=32 and extra_scalar=True it is
the paper's CIFAR-10 network: 30,578,179 parameters and 53.4 GFLOP forward per image.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vdm_core.networks.blocks import UNetBlock, conv, group_norm
from vdm_core.networks.conditioning import Conditioning
from vdm_core.networks.fourier import FEATURES_PER_CHANNEL, with_fourier_features


class UNet(nn.Module):
    """The VDM paper's network, whose output has the shape of the latent.

    Args:
        channels: image channels C.
        width: feature maps of every block, an even number of 4 up.
        blocks: residual blocks on the way down; one more comes on the way up.
        classes: number of classes, or None for an unconditional network.
        attention_everywhere: attention after every block, as in the reference network for augmented
            CIFAR-10, and not in the middle only.
        fourier_features: give the network Fourier features of the latent beside it.
        extra_scalar: the reference network's further input of the conditioning, see `Conditioning`.
        recompute: keep no activations inside the blocks and compute them again in the backward
            pass: less memory for about a third more time.

    Raises:
        ValueError: no block, or a width that is not an even number of 4 up.
    """

    def __init__(
        self,
        channels: int,
        width: int = 128,
        blocks: int = 32,
        classes: int | None = None,
        attention_everywhere: bool = False,
        fourier_features: bool = True,
        extra_scalar: bool = False,
        recompute: bool = False,
    ) -> None:
        super().__init__()
        if blocks < 1:
            raise ValueError(f"blocks is {blocks}; a U-Net needs at least 1 each way")
        self.classes = classes
        self.fourier_features = fourier_features
        self.recompute = recompute
        self.conditioning = Conditioning(width, classes, extra_scalar)
        features = self.conditioning.features

        def block(inputs: int, attends: bool = attention_everywhere) -> UNetBlock:
            return UNetBlock(inputs, width, features, attends=attends)

        inputs = channels * (1 + FEATURES_PER_CHANNEL) if fourier_features else channels
        self.conv_in = conv(inputs, width)
        self.down = nn.ModuleList(block(width) for _ in range(blocks))
        self.middle = nn.ModuleList([block(width, attends=True), block(width, attends=False)])
        self.up = nn.ModuleList(block(2 * width) for _ in range(blocks + 1))
        self.norm_out = group_norm(width)
        self.conv_out = conv(width, channels, zero=True)

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the prediction, in the shape and dtype of z.

        Args:
            z: (B, C, H, W) latent, float32 or float64.
            gamma: (B,) negative log-SNR.
            labels: (B,) int64, -1 for no class; None is -1 throughout.

        Raises:
            ValueError: a label out of range.
        """
        condition = self.conditioning(gamma, labels)
        inputs = with_fourier_features(z) if self.fourier_features else z
        h = self.conv_in(inputs.to(self.conv_in.weight.dtype))
        skips = [h]
        for block in self.down:
            h = self._run(block, h, condition)
            skips.append(h)
        for block in self.middle:
            h = self._run(block, h, condition)
        for block in self.up:
            h = self._run(block, torch.cat([h, skips.pop()], dim=1), condition)
        residual: Tensor = self.conv_out(F.silu(self.norm_out(h)))
        return z + residual.to(z.dtype)

    def _run(self, block: nn.Module, h: Tensor, condition: Tensor) -> Tensor:
        if self.recompute and torch.is_grad_enabled():
            return checkpoint(block, h, condition, use_reentrant=False)  # type: ignore[no-any-return]
        return block(h, condition)  # type: ignore[no-any-return]
