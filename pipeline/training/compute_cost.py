"""How much arithmetic training does, and how much of the hardware's peak that is."""

import copy
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from pipeline.config.train import TrainConfig
from pipeline.model.family import Model
from vdm_core import VAE, VDM, HierarchicalVAE, LatentVDM
from vdm_core.classification import ScheduledClassifier
from vdm_core.networks import flops_per_image

PEAK_BFLOAT16 = {
    "NVIDIA B200": 2250.0,
    "NVIDIA H200": 989.4,
    "NVIDIA H100 PCIe": 756.0,
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA A100": 312.0,
    "NVIDIA L40S": 362.0,
    "NVIDIA L4": 121.0,
    "NVIDIA A10": 125.0,
}
"""TFLOP/s of dense bfloat16 matrix products, from the vendor's data sheets (without sparsity), by
how torch's name of the device begins."""


@dataclass(frozen=True)
class ComputeCost:
    """`training_flops`: of the model for one image. `peak`: FLOP/s of all workers; None: unknown.

    Model FLOPs count what the model needs, not what is computed twice to save memory
    (Chowdhery et al. 2022, appendix B), so both figures compare runs of any engine.
    """

    training_flops: int
    peak: float | None

    def figures(self, images_per_second: float) -> dict[str, float]:
        """Model FLOP/s of all workers and, where the peak is known, its share of that."""
        rate = self.training_flops * images_per_second
        values = {"train/model_flops_per_second": rate}
        return values if self.peak is None else values | {"train/mfu": rate / self.peak}


def compute_cost(
    model: Model,
    shape: tuple[int, int, int],
    config: TrainConfig,
    device: torch.device,
    workers: int,
) -> ComputeCost:
    """The cost of training `model` on images (C,H,W) = `shape`, counted before an engine wraps it.

    The peak of a worker is
    `tracking.peak_tflops` or, for bfloat16 on a GPU of the table, the table's; else unknown.
    """
    peak = config.tracking.peak_tflops
    if peak is None and device.type == "cuda" and config.deepspeed.precision == "bfloat16":
        peak = known_peak(torch.cuda.get_device_name(device))
    return ComputeCost(
        training_flops=training_flops(model, shape),
        peak=None if peak is None else peak * 1e12 * workers,
    )


def training_flops(model: Model, shape: tuple[int, int, int]) -> int:
    """FLOPs of one image's forward and backward pass through the networks of `model`.

    The backward pass takes twice what the forward pass takes, where anything is trained.
    """
    match model:
        case VDM() | ScheduledClassifier():
            return 3 * flops_per_image(model.network, shape)
        case VAE() | HierarchicalVAE():
            return 3 * flops_of_terms(model, shape)
        case LatentVDM():
            of_vae = (3 if model.joint else 1) * flops_of_terms(model.vae, shape)
            return of_vae + 3 * flops_per_image(model.vdm.network, model.latent_shape(shape))


def flops_of_terms(model: VAE | HierarchicalVAE, shape: tuple[int, int, int]) -> int:
    """The same of one image's forward pass, as `flops_per_image`; nothing is computed."""
    shadow = copy.deepcopy(model).to("meta")
    draws = {
        name: torch.empty(1, *draw.shape, device="meta")
        for name, draw in shadow.draws(shape).items()
    }
    images = torch.empty(1, *shape, dtype=torch.uint8, device="meta")
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        shadow(images, **draws)
    return int(counter.get_total_flops())


def known_peak(device_name: str) -> float | None:
    """The table's entry for a device, the longest name that fits; None if there is none.

    A slice of a GPU (MIG) has none: its peak is not the whole device's.
    """
    if " MIG " in device_name:
        return None
    fitting = [name for name in PEAK_BFLOAT16 if _begins(device_name, name)]
    return PEAK_BFLOAT16[max(fitting, key=len)] if fitting else None


def _begins(device_name: str, name: str) -> bool:
    """Whether `name` is where the words of `device_name` begin: an A100 is no A10."""
    return device_name.startswith(name) and not device_name[len(name) :][:1].isalnum()
