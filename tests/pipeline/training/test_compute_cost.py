"""The share of the peak that a run uses: of known hardware, and of no other."""

import pytest
import torch

from pipeline.training.compute_cost import ComputeCost, compute_cost, known_peak


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
    vdm = torch.nn.Module()
    vdm.network = Convolution()
    cost = compute_cost(vdm, (2, 4, 4), tiny("tracking.peak_tflops=3"), torch.device("cpu"), 2)
    assert cost.training_flops == 3 * 2 * (2 * 2 * 9) * 16
    assert cost.peak == 6e12
    assert compute_cost(vdm, (2, 4, 4), tiny(), torch.device("cpu"), 2).peak is None


class Convolution(torch.nn.Module):
    """The least that keeps the denoiser's contract."""

    def __init__(self) -> None:
        super().__init__()
        self.only = torch.nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, z, gamma, labels=None):
        return self.only(z)
