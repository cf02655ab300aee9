"""Noise schedules: pinned ends, strict increase, closed-form slopes, float32 at least."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdm_core.schedule import CosineSchedule, LinearSchedule, MonotoneSchedule, Schedule

MAKERS: dict[str, Callable[[], Schedule]] = {
    "fixed": lambda: LinearSchedule(learned=False),
    "linear": LinearSchedule,
    "cosine": CosineSchedule,
    "monotone": MonotoneSchedule,
    "monotone with fixed ends": lambda: MonotoneSchedule(learned=False, units=7),
}
schedules = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS.keys())


def shake(schedule: Schedule, scale: float = 1.0) -> Schedule:
    """Move every parameter at random: the state that any training might reach."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return schedule


@schedules
def test_the_ends_asked_for_are_exact_in_float32_at_the_start(
    make: Callable[[], Schedule],
) -> None:
    gamma = make()(torch.tensor([0.0, 1.0])).gamma
    assert torch.equal(gamma, torch.tensor([-13.3, 5.0]))


@schedules
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_after_any_change_of_weights_the_ends_stay_pinned_and_gamma_rises(
    make: Callable[[], Schedule], scale: float
) -> None:
    schedule = shake(make(), scale)
    gamma_0, gamma_1 = schedule.ends()
    point = schedule(torch.linspace(0, 1, 257, dtype=torch.float64))
    assert point.gamma[0] == gamma_0
    assert point.gamma[-1] == gamma_1
    assert (point.gamma.diff() > 0).all()
    assert (point.slope > 0).all()


def test_learned_ends_cannot_cross() -> None:
    schedule = LinearSchedule(gamma_0=-1.0, gamma_1=1.0)
    with torch.no_grad():
        schedule.ends.end_0.fill_(5.0)
        schedule.ends.end_1.fill_(-5.0)
    gamma = schedule(torch.tensor([0.0, 1.0])).gamma
    assert gamma[1] > gamma[0]


def test_a_short_span_starts_where_it_was_asked_to() -> None:
    gamma = LinearSchedule(gamma_0=-1.0, gamma_1=-0.5)(torch.tensor([0.0, 1.0])).gamma
    torch.testing.assert_close(gamma, torch.tensor([-1.0, -0.5]), rtol=0, atol=1e-6)


@schedules
def test_the_slope_is_the_derivative_of_gamma(make: Callable[[], Schedule]) -> None:
    schedule = shake(make().double())
    t = torch.rand(50, dtype=torch.float64, requires_grad=True)
    point = schedule(t)
    (derivative,) = torch.autograd.grad(point.gamma.sum(), t)
    torch.testing.assert_close(point.slope, derivative, rtol=1e-10, atol=1e-10)


@schedules
def test_any_shape_of_t_gives_that_shape_and_the_same_numbers(
    make: Callable[[], Schedule],
) -> None:
    schedule = make()
    t = torch.rand(2, 3, 4)
    point = schedule(t)
    assert point.gamma.shape == point.slope.shape == t.shape
    alone = schedule(t[1, 2, 3])
    assert alone.gamma.shape == alone.slope.shape == ()
    torch.testing.assert_close(alone.gamma, point.gamma[1, 2, 3])
    torch.testing.assert_close(alone.slope, point.slope[1, 2, 3])


@schedules
def test_gamma_is_float32_at_least_and_float64_on_request(make: Callable[[], Schedule]) -> None:
    schedule = make()
    assert schedule(torch.tensor([0.5], dtype=torch.bfloat16)).gamma.dtype == torch.float32
    assert schedule(torch.tensor([0.5])).slope.dtype == torch.float32
    assert schedule(torch.tensor([0.5], dtype=torch.float64)).gamma.dtype == torch.float64
    assert schedule.double()(torch.tensor([0.5])).gamma.dtype == torch.float64


@schedules
def test_bf16_autocast_does_not_reach_gamma(make: Callable[[], Schedule]) -> None:
    schedule, t = make(), torch.linspace(0, 1, 9)
    plain = schedule(t)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = schedule(t)
    assert torch.equal(plain.gamma, inside.gamma)
    assert torch.equal(plain.slope, inside.slope)


@schedules
def test_a_schedule_cast_to_bf16_is_an_error(make: Callable[[], Schedule]) -> None:
    """bf16 would turn -13.3 into -13.3125 without a word."""
    with pytest.raises(TypeError, match=r"bfloat16.*float32"):
        make().to(torch.bfloat16)(torch.tensor([0.5]))


def test_the_monotone_net_starts_close_to_the_line() -> None:
    t = torch.linspace(0, 1, 1001)
    line, net = LinearSchedule()(t), MonotoneSchedule()(t)
    assert (net.gamma - line.gamma).abs().max() < 0.01
    assert (net.slope / line.slope - 1).abs().max() < 0.01


@schedules
def test_parameters_are_contiguous_vectors_and_all_get_gradients(
    make: Callable[[], Schedule],
) -> None:
    schedule = make()
    point = schedule(torch.rand(64))
    parameters = list(schedule.parameters())
    assert all(p.ndim >= 1 and p.is_contiguous() for p in parameters)
    if parameters:
        (point.gamma.sum() + point.slope.square().sum()).backward()
    assert all(p.grad is not None and (p.grad != 0).any() for p in parameters)


def test_fixed_and_learned_ends_share_one_state_layout() -> None:
    learned, fixed = shake(LinearSchedule()), LinearSchedule(learned=False)
    fixed.load_state_dict(learned.state_dict())
    t = torch.rand(5)
    torch.testing.assert_close(fixed(t).gamma, learned(t).gamma.detach())


@pytest.mark.parametrize("ends", [(5.0, -13.3), (1.0, 1.0), (float("nan"), 5.0)])
def test_ends_that_do_not_rise_are_an_error(ends: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="gamma_0 < gamma_1"):
        LinearSchedule(*ends)
    with pytest.raises(ValueError, match="units"):
        MonotoneSchedule(units=0)


def test_a_warp_of_ones_own_keeps_the_contract() -> None:
    """A schedule is its ends and any warp of [0, 1] onto itself."""

    class Square(nn.Module):
        def forward(self, t: Tensor) -> tuple[Tensor, Tensor]:
            return t.square(), 2 * t

    point = Schedule(LinearSchedule(-4.0, 4.0).ends, Square())(torch.tensor([0.0, 0.5, 1.0]))
    torch.testing.assert_close(point.gamma, torch.tensor([-4.0, -2.0, 4.0]))
    torch.testing.assert_close(point.slope, torch.tensor([0.0, 8.0, 16.0]))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_cosine_schedule_is_the_published_one_where_that_does_not_clip(
    dtype: torch.dtype,
) -> None:
    """alpha_bar = cos^2((t + s) / (1 + s) pi / 2), s = 0.008, up to a last time short of the zero
    of the cosine, and without the constant factor that makes alpha_bar(0) = 1 there."""
    s, last = 0.008, 0.98
    angle = [(t + s) / (1 + s) * math.pi / 2 for t in (0.0, last)]
    schedule = CosineSchedule(*(2 * math.log(math.tan(u)) for u in angle)).to(dtype)
    t = torch.linspace(0, 1, 101, dtype=torch.float64)
    alpha_bar = torch.cos((t * last + s) / (1 + s) * math.pi / 2).square()
    gamma = schedule(t.to(dtype)).gamma.double()
    tolerance = 3e-6 if dtype == torch.float32 else 1e-6  # the ends are float32 in both
    torch.testing.assert_close(gamma, torch.logit(1 - alpha_bar), rtol=0, atol=tolerance)


def test_the_cosine_schedule_keeps_its_digits_at_ends_far_from_zero() -> None:
    schedule = CosineSchedule(-15.0, 15.0)
    t = torch.linspace(0, 1, 257)
    single, double = schedule(t), schedule(t.double())
    torch.testing.assert_close(single.gamma.double(), double.gamma, rtol=1e-6, atol=1e-5)
    torch.testing.assert_close(single.slope.double(), double.slope, rtol=1e-4, atol=0)
    torch.testing.assert_close(double.gamma, -double.gamma.flip(0), rtol=1e-9, atol=1e-9)
