"""The bounds of an evaluation against the training loss, and against a known entropy."""

import itertools
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdm_core import (
    VDM,
    AdaptiveElboTerms,
    AdaptiveSchedule,
    LinearSchedule,
    MonotoneSchedule,
    MultivariateSchedule,
    Schedule,
)
from vdm_core.likelihood import continuous_bound, discrete_bound, estimate
from vdm_core.rng import Purpose, normal

SCHEDULES: dict[str, Callable[[], Schedule]] = {
    "monotone": lambda: MonotoneSchedule(units=16),
    "multivariate": lambda: MultivariateSchedule((2, 4, 4), own_ends=True),
    "adaptive": lambda: AdaptiveSchedule((2, 4, 4), latent_dim=3, width=4),
}
INDICES = torch.arange(100, 106)
LABELS = torch.tensor([0, 1, 2, -1, 3, 0])


def shaken(make: Callable[[], Schedule]) -> Schedule:
    torch.manual_seed(0)
    schedule = make()
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += 0.2 * torch.randn(parameter.shape)
    return schedule


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_the_discrete_bound_is_the_training_loss_averaged_over_all_its_steps(
    make: Callable[[], Schedule], convolution: nn.Module, images: Tensor
) -> None:
    steps = 5
    vdm = VDM(convolution, shaken(make), steps=steps).double()
    bound = discrete_bound(vdm, images, INDICES, LABELS, steps=steps, seed=7)
    rows = []
    for step in range(steps):
        draws = {
            "times": torch.full((6,), (step + 0.5) / steps, dtype=torch.float64),
            "noise": normal(7, Purpose.NOISE, INDICES, (2, 4, 4), step=step, dtype=torch.float64),
            "noise_0": normal(7, Purpose.NOISE_0, INDICES, (2, 4, 4), dtype=torch.float64),
        }
        if isinstance(vdm.schedule, AdaptiveSchedule):
            draws["noise_latent"] = normal(7, Purpose.LATENT, INDICES, (3,), dtype=torch.float64)
        rows.append(vdm(images, LABELS, **draws))
    assert isinstance(bound, AdaptiveElboTerms) == isinstance(vdm.schedule, AdaptiveSchedule)
    for got, *expected in zip(bound, *rows, strict=True):
        torch.testing.assert_close(got, torch.stack(expected).mean(0), rtol=1e-10, atol=1e-10)


def test_the_discrete_bound_falls_to_the_entropy_like_one_over_steps(
    one_pixel: VDM, eight_levels: Tensor
) -> None:
    """With the optimal denoiser nothing but the size of the steps keeps it above log 8."""
    images = eight_levels.repeat(2, 1, 1, 1)
    gaps = [
        discrete_bound(one_pixel, images, torch.arange(len(images)), steps=steps).total.mean()
        - math.log(8)
        for steps in (24, 48, 96)
    ]
    for coarse, fine in itertools.pairwise(gaps):
        assert 1.7 < coarse / fine < 2.4


def test_the_continuous_bound_is_the_entropy_within_its_standard_error(
    one_pixel: VDM, eight_levels: Tensor
) -> None:
    indices = torch.arange(len(eight_levels))
    terms = continuous_bound(one_pixel, eight_levels, indices, draws=20)
    mean, error = estimate(terms.total)
    assert error < 0.03
    assert abs(mean - math.log(8)) < 4 * error
    once = estimate(continuous_bound(one_pixel, eight_levels, indices, draws=1, seed=1).total)
    assert once.standard_error > 2 * error
    assert abs(once.mean - math.log(8)) < 4 * once.standard_error


@pytest.mark.parametrize("make", SCHEDULES.values(), ids=SCHEDULES.keys())
def test_an_example_has_the_same_bound_alone_and_in_a_batch_in_training_mode_too(
    make: Callable[[], Schedule], convolution: nn.Module, images: Tensor
) -> None:
    network = _Dropping(convolution)
    vdm = VDM(network, shaken(make)).double().train()
    for bound in (
        lambda part: discrete_bound(vdm, images[part], INDICES[part], steps=3),
        lambda part: continuous_bound(vdm, images[part], INDICES[part], draws=3),
    ):
        whole, alone = bound(slice(None)), bound(slice(2, 3))
        torch.testing.assert_close(whole.total[2:3], alone.total, rtol=1e-10, atol=0)
    assert network.training


class _Dropping(nn.Module):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.dropout = nn.Dropout(0.5)

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        answer: Tensor = self.network(self.dropout(z), gamma, labels)
        return answer


def test_float32_and_float64_agree(convolution: nn.Module, images: Tensor) -> None:
    vdm = VDM(convolution, LinearSchedule())
    single = discrete_bound(vdm, images, INDICES, steps=20)
    double = discrete_bound(vdm.double(), images, INDICES, steps=20)
    for name in ("reconstruction", "prior", "diffusion"):
        got, expected = getattr(single, name), getattr(double, name)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("bad", [0, -3])
def test_steps_and_draws_below_one_are_errors(
    bad: int, convolution: nn.Module, images: Tensor
) -> None:
    vdm = VDM(convolution, LinearSchedule())
    with pytest.raises(ValueError, match=rf"steps is {bad}"):
        discrete_bound(vdm, images, INDICES, steps=bad)
    with pytest.raises(ValueError, match=rf"draws is {bad}"):
        continuous_bound(vdm, images, INDICES, draws=bad)
