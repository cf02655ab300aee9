"""The variance of the loss at one time, from a profile alone: against drawn losses."""

import pytest
import torch
from torch import Tensor
from torch.distributions import Chi2

from vdm_core import LinearSchedule, MonotoneSchedule, MultivariateSchedule
from vdm_core.likelihood.time_variance import time_variance

GAMMA_0, GAMMA_1, DIMS = -6.0, 4.0, 6


def scale(gamma: Tensor) -> Tensor:
    """|epsilon - epsilon_hat|^2 of an invented model is scale(gamma) times a chi-squared."""
    return torch.sigmoid(1.5 * gamma) + 0.05


def errors_at(gammas: Tensor, images: int) -> Tensor:
    torch.manual_seed(0)
    return scale(gammas) * Chi2(DIMS).sample((images, len(gammas))).double()


def test_a_learned_schedule_has_the_variance_that_drawing_times_gives() -> None:
    """Draw t and the error; the variance of gamma' e / 2 is the estimate's within its error."""
    torch.manual_seed(3)
    schedule = MonotoneSchedule(GAMMA_0, GAMMA_1, learned=False)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += 0.5 * torch.randn_like(parameter)
    gammas = torch.linspace(GAMMA_0, GAMMA_1, 129, dtype=torch.float64)
    got = time_variance(schedule, gammas, errors_at(gammas, 4000))
    t = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    gamma, slope = (part.detach() for part in schedule(t))
    squares = Chi2(DIMS).sample((80, len(t))).double()
    drawn = slope * scale(gamma) * squares / 2
    assert got.learned == pytest.approx(drawn.var().item(), rel=0.02)
    straight = (GAMMA_1 - GAMMA_0) * scale(GAMMA_0 + (GAMMA_1 - GAMMA_0) * t)
    assert got.linear == pytest.approx((straight * squares / 2).var().item(), rel=0.02)
    torch.testing.assert_close(got.gain.mean, got.linear / got.learned)


def test_the_best_schedule_is_no_worse_than_any_and_reached_by_its_slope() -> None:
    """Where the error is the same at each gamma, the straight line is the best there is."""
    gammas = torch.linspace(GAMMA_0, GAMMA_1, 33, dtype=torch.float64)
    line = LinearSchedule(GAMMA_0, GAMMA_1, learned=False)
    flat = Chi2(DIMS).sample((50, 1)).double().expand(50, 33)
    got = time_variance(line, gammas, flat)
    torch.testing.assert_close(got.learned, got.linear, rtol=1e-5, atol=0)
    torch.testing.assert_close(got.best, got.linear, rtol=1e-9, atol=0)
    uneven = time_variance(line, gammas, errors_at(gammas, 2000))
    assert uneven.best < 0.8 * uneven.linear
    torch.testing.assert_close(uneven.possible.mean, uneven.linear / uneven.best)


def test_the_standard_error_is_that_of_many_data_sets() -> None:
    gammas = torch.linspace(GAMMA_0, GAMMA_1, 17, dtype=torch.float64)
    schedule = LinearSchedule(GAMMA_0, GAMMA_1, learned=False)
    all_errors = errors_at(gammas, 200 * 300).view(200, 300, 17)
    found = [time_variance(schedule, gammas, errors, points=257).possible for errors in all_errors]
    spread = torch.stack([one.mean for one in found]).std()
    claimed = torch.stack([one.standard_error for one in found]).mean()
    assert claimed == pytest.approx(spread.item(), rel=0.15)


def test_what_cannot_be_asked_is_refused() -> None:
    gammas = torch.tensor([-6.0, 4.0])
    per_pixel = MultivariateSchedule((1, 2, 2), -6.0, 4.0)
    with pytest.raises(ValueError, match="one gamma for all pixels"):
        time_variance(per_pixel, gammas, torch.ones(5, 2))
    with pytest.raises(ValueError, match="needs 3 or more"):
        time_variance(LinearSchedule(-6.0, 4.0), gammas, torch.ones(2, 2))
