"""How much arithmetic training does, and how much of the hardware's peak that is."""

from dataclasses import dataclass

import torch

from pipeline.config.train import TrainConfig
from pipeline.model.family import Model
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

    The backward pass takes twice what the forward pass takes. The peak of a worker is
    `tracking.peak_tflops` or, for bfloat16 on a GPU of the table, the table's; else unknown.
    """
    peak = config.tracking.peak_tflops
    if peak is None and device.type == "cuda" and config.deepspeed.precision == "bfloat16":
        peak = known_peak(torch.cuda.get_device_name(device))
    return ComputeCost(
        training_flops=3 * flops_per_image(model.network, shape),
        peak=None if peak is None else peak * 1e12 * workers,
    )


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
