"""What every block of a network is told besides the image: the noise level and the class.

Both become one vector per example. The noise level goes through a fixed affine map, a sinusoidal
embedding and a small MLP; the class is a learned vector added to it. No class (label -1) adds the
all-zero vector, which is the null condition of classifier-free guidance.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vdm_core.labels import NO_LABEL, check_labels
from vdm_core.networks.blocks import linear

GAMMA_MIN, GAMMA_MAX = -20.0, 20.0
"""Ends of the fixed range that the embedding maps to [0, 1].

They are constants and not the configured ends of a schedule: learned ends move, and a network must
read the same gamma in the same way throughout a run and after it. Beyond the range the embedding
goes on smoothly.
"""


def embed_gamma(gamma: Tensor, width: int) -> Tensor:
    """Sinusoidal embedding of the noise level (Kingma et al. 2021, appendix B).

    With t = (gamma - GAMMA_MIN) / (GAMMA_MAX - GAMMA_MIN) and w_j falling geometrically from 1 to
    1e-4, the result is [sin(1000 t w_j), cos(1000 t w_j)].

    Args:
        gamma: (B,) negative log-SNR, float32 or float64.
        width: number of features, even and at least 4.

    Returns:
        (B, width) in gamma's dtype.

    Raises:
        TypeError: gamma is neither float32 nor float64.
    """
    if gamma.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"gamma is {gamma.dtype}, too coarse for its embedding; keep it in float32")
    half = width // 2
    rates = torch.arange(half, device=gamma.device, dtype=gamma.dtype)
    rates = torch.exp(rates * (-math.log(10_000.0) / (half - 1)))
    phases = (gamma - GAMMA_MIN)[:, None] * (1000.0 / (GAMMA_MAX - GAMMA_MIN)) * rates
    return torch.cat([phases.sin(), phases.cos()], dim=1)


class Conditioning(nn.Module):
    """(gamma, labels) -> the conditioning vector (B, features) of all blocks, features = 4 width.

    Args:
        width: number of sinusoidal features, even and at least 4.
        classes: number of classes, or None for an unconditional network.
        extra_scalar: add one input beside the sinusoidal features, as the reference network has.
            There it tells how an image was augmented, and is 0 where nothing is augmented; here it
            is always 0. It exists to hold weights of, and to compare with, that network.
    """

    def __init__(self, width: int, classes: int | None = None, extra_scalar: bool = False) -> None:
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(f"width is {width}; the gamma embedding needs an even width of 4 up")
        if classes is not None and classes < 1:
            raise ValueError(f"classes is {classes}; give at least 1, or None for no classes")
        self.width = width
        self.classes = classes
        self.extra_scalar = extra_scalar
        self.features = 4 * width
        self.dense_0 = linear(width + int(extra_scalar), self.features)
        self.dense_1 = linear(self.features, self.features)
        self.classes_embedding = None if classes is None else nn.Embedding(classes, self.features)

    def forward(self, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return the conditioning vector.

        Args:
            gamma: (B,) negative log-SNR.
            labels: (B,) int64 in [0, classes), -1 for no class; None is -1 throughout.

        Returns:
            (B, features), in the weights' dtype (or autocast's).

        Raises:
            ValueError: a label out of range, or a label for an unconditional network. Labels on an
                accelerator are not looked at, as that would stall it.
        """
        embedded = embed_gamma(gamma, self.width).to(self.dense_0.weight.dtype)
        if self.extra_scalar:
            embedded = F.pad(embedded, (0, 1))
        hidden = self.dense_1(F.silu(self.dense_0(embedded)))
        check_labels(labels, self.classes)
        if self.classes_embedding is not None:
            if labels is None:
                labels = torch.full_like(gamma, NO_LABEL, dtype=torch.int64)
            vectors = self.classes_embedding(labels.clamp(min=0))
            hidden = hidden + vectors * (labels != NO_LABEL)[:, None]
        return F.silu(hidden)
