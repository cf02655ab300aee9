"""The share of the peak that a run uses: of known hardware, and of no other."""

import pytest
import torch
from small_models import CLASSES, SHAPE, configured

from pipeline.model.generative import build_generative
from pipeline.training.compute_cost import ComputeCost, compute_cost, known_peak, training_flops
from vdm_core import VDM, LatentVDM, LinearSchedule


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A10", 125.0),
        ("NVIDIA A10G", None),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 NVL", None),
        ("NVIDIA H100 80GB HBM3 MIG 1g.10gb", None),
        ("NVIDIA L4", 121.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L40", None),
        ("AMD Instinct MI300X", None),
    ],
)
def test_a_peak_is_known_or_it_is_not(name: str, peak: float | None) -> None:
    """A device whose name merely resembles another's gets no figure of that one."""
    assert known_peak(name) == peak


def test_the_share_of_the_peak() -> None:
    """2 GFLOP an image, 100 images/s, a peak of 1 TFLOP/s: a fifth of it."""
    assert ComputeCost(2 * 10**9, 1e12).figures(100.0) == pytest.approx(
        {"train/model_flops_per_second": 2e11, "train/mfu": 0.2}
    )
    assert set(ComputeCost(2 * 10**9, None).figures(100.0)) == {"train/model_flops_per_second"}


def test_cost_of_a_network_by_hand(tiny) -> None:
    """One 3 x 3 convolution of 2 channels over 4 x 4 pixels, forward and twice that backward."""
    vdm = VDM(Convolution(), LinearSchedule())
    cost = compute_cost(vdm, (2, 4, 4), tiny("tracking.peak_tflops=3"), torch.device("cpu"), 2)
    assert cost.training_flops == 3 * 2 * (2 * 2 * 9) * 16
    assert cost.peak == 6e12
    assert compute_cost(vdm, (2, 4, 4), tiny(), torch.device("cpu"), 2).peak is None


@pytest.mark.parametrize("name", ["vae", "hvae", "mhvae"])
def test_cost_of_a_vae_is_that_of_its_convolutions(name: str) -> None:
    """Against a count by hooks, two operations for each weight and place; three passes' worth."""
    model = build_generative(configured(name), SHAPE, CLASSES, seed=0, levels=256)
    assert training_flops(model, SHAPE) == 3 * counted(model)


def test_a_vae_that_is_given_costs_its_forward_pass_alone() -> None:
    """Trained with the VDM of its latents it costs three times that."""
    joint = build_generative(configured("latent_vdm"), SHAPE, CLASSES, seed=0, levels=256)
    assert isinstance(joint, LatentVDM)
    given = LatentVDM(joint.vae, joint.vdm, joint=False)
    both = training_flops(joint, SHAPE), training_flops(given, SHAPE)
    assert both[0] - both[1] == 2 * counted(joint.vae)


def counted(model: torch.nn.Module) -> int:
    """Operations of its convolutions for one image."""
    found: list[int] = []

    def count(layer: torch.nn.Module, _: object, output: torch.Tensor) -> None:
        found.append(2 * layer.weight[0].numel() * output.numel())  # type: ignore[index]

    layers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Conv2d)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    noise = torch.zeros(1, *model.latent_shape(SHAPE))  # type: ignore[operator]
    with torch.no_grad():
        model(torch.zeros(1, *SHAPE, dtype=torch.uint8), noise_encoder=noise)
    for hook in hooks:
        hook.remove()
    return sum(found)


class Convolution(torch.nn.Module):
    """The least that keeps the denoiser's contract."""

    def __init__(self) -> None:
        super().__init__()
        self.only = torch.nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, z, gamma, labels=None):
        return self.only(z)
