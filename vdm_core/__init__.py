"""The mathematics of variational diffusion models, on torch alone: no files, ranks or global state.

vdm = VDM(UNet(...), MonotoneSchedule())
terms = vdm(images, labels, times=t, noise=noise, noise_0=noise_0)  # nats, one of each example
images = sample(vdm, sample_ids, labels, shape=(3, 32, 32), guidance=ClassifierFree(2.0))
"""

from vdm_core.adaptive import AdaptiveSchedule
from vdm_core.guidance import Autoguidance, Classifier, ClassifierFree
from vdm_core.ladder import VAE, HierarchicalVAE, sample_vae
from vdm_core.latent_vdm import LatentVDM, sample_latent_vdm
from vdm_core.multivariate import MultivariateSchedule
from vdm_core.networks import DiT, DownsamplingUNet, NoiseAwareClassifier, UNet
from vdm_core.records import (
    AdaptiveElboTerms,
    Batch,
    ElboTerms,
    HierarchicalElboTerms,
    LatentElboTerms,
    Noised,
    SchedulePoint,
)
from vdm_core.samplers import sample
from vdm_core.schedule import CosineSchedule, LinearSchedule, MonotoneSchedule, Schedule
from vdm_core.vdm import VDM

__all__ = [
    "VAE",
    "VDM",
    "AdaptiveElboTerms",
    "AdaptiveSchedule",
    "Autoguidance",
    "Batch",
    "Classifier",
    "ClassifierFree",
    "CosineSchedule",
    "DiT",
    "DownsamplingUNet",
    "ElboTerms",
    "HierarchicalElboTerms",
    "HierarchicalVAE",
    "LatentElboTerms",
    "LatentVDM",
    "LinearSchedule",
    "MonotoneSchedule",
    "MultivariateSchedule",
    "NoiseAwareClassifier",
    "Noised",
    "Schedule",
    "SchedulePoint",
    "UNet",
    "sample",
    "sample_latent_vdm",
    "sample_vae",
]
