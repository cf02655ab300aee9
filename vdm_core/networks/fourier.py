"""Fourier features of the latent: they show a network the last bits of a pixel's value.

At the clean end of a VDM the noise is thinner than one of the 256 levels, and a convolution of a
value in [-1, 1] hardly sees a change of 1/128. A sine that turns 64 or 128 times per unit does
(Kingma et al. 2021, section 3.4 and appendix C).
"""

import math

import torch
from torch import Tensor

EXPONENTS = (6, 7)
FEATURES_PER_CHANNEL = 2 * len(EXPONENTS)


def fourier_features(z: Tensor) -> Tensor:
    """Return sin and cos of 2 pi 2^k z for k = 6, 7.

    Args:
        z: (B, C, H, W) latent. A latent in bfloat16 or float16 has lost the digits asked for here,
            so pass float32 or float64.

    Returns:
        (B, 4 C, H, W): first all sines, then all cosines; within each, channel by channel, k = 6
        before k = 7.

    Raises:
        TypeError: z is neither float32 nor float64.
    """
    if z.dtype not in (torch.float32, torch.float64):
        raise TypeError(
            f"fourier_features: z is {z.dtype}, whose steps are coarser than the features' period; "
            "pass the latent in float32"
        )
    # Multiplying by 2^k and dropping whole turns are exact in binary, so the angle is below pi and
    # its error does not grow with the phase (which reaches 800 rad).
    turns = torch.stack([z * 2.0**k for k in EXPONENTS], dim=2).flatten(1, 2)
    angles = (turns - turns.round()) * (2.0 * math.pi)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def with_fourier_features(z: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, 5 C, H, W): z itself, then its Fourier features."""
    return torch.cat([z, fourier_features(z)], dim=1)
