"""Solvers against equations with known solutions, and each example at its own pace."""

import itertools
import math

import pytest
import torch
from torch import Tensor

from vdm_core.likelihood import DormandPrince, RungeKutta4

START, END = 0.3, 2.0


def spiral(time: Tensor, state: Tensor) -> Tensor:
    """(cos, sin) of time^2 / 2, and as the last component the integral of the first."""
    x, y = state[:, 0], state[:, 1]
    return torch.stack([-time * y, time * x, x], dim=1)


def initial(dtype: torch.dtype = torch.float64) -> Tensor:
    angle = START**2 / 2
    return torch.tensor([[math.cos(angle), math.sin(angle), 0.0]], dtype=dtype)


def error(state: Tensor) -> float:
    angle = END**2 / 2
    expected = torch.tensor([[math.cos(angle), math.sin(angle)]], dtype=state.dtype)
    return (state[:, :2] - expected).abs().max().item()


def test_runge_kutta_is_of_order_four() -> None:
    errors = [error(RungeKutta4(steps)(spiral, initial(), START, END)) for steps in (20, 40, 80)]
    for coarse, fine in itertools.pairwise(errors):
        assert math.log2(coarse / fine) == pytest.approx(4, abs=0.2)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-7, 1e-10])
def test_dormand_prince_meets_its_tolerance(tolerance: float) -> None:
    state = DormandPrince(tolerance, tolerance)(spiral, initial(), START, END)
    assert error(state) < 10 * tolerance


def test_dormand_prince_spends_as_a_method_of_order_five_should() -> None:
    """A tolerance 10^5 times finer takes about 10 times the steps."""

    def calls(tolerance: float) -> int:
        count = 0

        def field(time: Tensor, state: Tensor) -> Tensor:
            nonlocal count
            count += 1
            return spiral(time, state)

        DormandPrince(tolerance, tolerance)(field, initial(), START, END)
        return count

    assert 5 < calls(1e-11) / calls(1e-6) < 15


def test_an_easy_example_is_not_changed_by_a_hard_one_beside_it() -> None:
    def field(time: Tensor, state: Tensor) -> Tensor:
        return torch.stack([state[:, 0] * state[:, 1], 0 * time, torch.cos(state[:, 1] * time)], 1)

    state = torch.tensor([[1.0, 0.1, 0.0], [1.0, -40.0, 0.0]], dtype=torch.float64)
    solver = DormandPrince(1e-6, 1e-6)
    together, alone = solver(field, state, START, END), solver(field, state[:1], START, END)
    assert torch.equal(together[:1], alone)


def test_wrong_settings_and_a_hopeless_equation_are_errors() -> None:
    with pytest.raises(ValueError, match="steps is 0"):
        RungeKutta4(0)
    for bad in ({"rtol": 0.0}, {"atol": -1.0}, {"most_steps": 0}, {"rtol": math.nan}):
        with pytest.raises(ValueError, match="tolerances above 0"):
            DormandPrince(**bad)
    with pytest.raises(ValueError, match=r"got no further than 0\.3"):
        DormandPrince(1e-9, 1e-9, most_steps=1)(spiral, initial(), START, END)
    with pytest.raises(ValueError, match=r"NaN after 0\.3"):
        DormandPrince()(lambda t, s: s * math.nan, initial(), START, END)
