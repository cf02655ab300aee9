"""Networks that predict the noise (or x, v, score) from a latent, its noise level and its class.

All keep one contract, `network(z, gamma, labels=None) -> prediction`, and any other module that
keeps it serves as well. Beside them stands a classifier, `classifier(z, gamma) -> logits`.
"""

from vdm_core.networks.classifier import NoiseAwareClassifier
from vdm_core.networks.cost import flops_per_image, parameter_count
from vdm_core.networks.dit import DiT
from vdm_core.networks.downsampling_unet import DownsamplingUNet
from vdm_core.networks.unet import UNet

__all__ = [
    "DiT",
    "DownsamplingUNet",
    "NoiseAwareClassifier",
    "UNet",
    "flops_per_image",
    "parameter_count",
]
