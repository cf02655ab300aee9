"""How large a network is and how much arithmetic one image costs."""

import copy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


def parameter_count(module: nn.Module) -> int:
    """Number of scalar parameters, trained or not, each shared one counted once."""
    return sum(parameter.numel() for parameter in module.parameters())


def flops_per_image(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Floating-point operations of one forward pass over one image.

    A multiplication and an addition are two operations; only matrix products and convolutions
    (with attention's) are counted, as torch's counter does. Nothing is computed: a copy of the
    network runs on the meta device.

    Args:
        network: `network(z, gamma)` as the denoiser contract says; its weights are left alone.
        shape: (C, H, W) of an image.
    """
    shadow = copy.deepcopy(network).to("meta")
    z, gamma = torch.empty(1, *shape, device="meta"), torch.empty(1, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(z, gamma)
    return int(counter.get_total_flops())
