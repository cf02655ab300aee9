"""The profile of training's own losses: its area is the diffusion term, its errors are right."""

import math

import pytest
import torch
from torch import Tensor

from pipeline.training.time_bins import (
    BINS,
    EDGES,
    ProfileWindow,
    TimeBins,
    loss_variance,
    training_profile,
)

DIMS = 12
BIT = DIMS * math.log(2)


def losses(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Times in [0, 1) and losses that depend on them, in nats."""
    generator = torch.Generator().manual_seed(seed)
    times = torch.rand(count, generator=generator)
    noise = torch.rand(count, generator=generator)
    return times, BIT * (1 + times.square()) * (0.5 + noise)


def bins(times: Tensor, nats: Tensor) -> Tensor:
    counter = TimeBins()
    for part in range(0, len(times), 1000):
        at = slice(part, part + 1000)
        counter.add(nats[at], times[at], torch.ones(len(nats[at]), dtype=torch.bool))
    return counter.take()


def test_the_area_over_gamma_is_the_diffusion_term() -> None:
    """Whatever the schedule, stratified times give the mean loss in bits/dim."""
    times = (torch.arange(32 * 400) + 0.5) / (32 * 400)
    nats = losses(len(times), 0)[1] * (1 + times)
    gammas = -13.3 + 18.3 * EDGES.double() ** 3
    window = ProfileWindow(step=40)
    window.add(bins(times, nats), gammas)
    profile = training_profile(window.take(step=60), DIMS)
    assert (profile.first_step, profile.last_step) == (41, 60)
    area = torch.tensor(profile.bits_per_gamma).double() @ gammas.diff()
    assert area.item() == pytest.approx(nats.double().mean().item() / BIT, rel=1e-6)
    assert profile.gammas == pytest.approx(gammas.tolist())


def test_each_bin_has_the_mean_and_error_of_its_examples() -> None:
    """Over two intervals, against float64 on the examples themselves."""
    times, nats = losses(20_000, 1)
    window, gammas = ProfileWindow(0), -10 + 15 * EDGES.double()
    window.add(bins(times[:5000], nats[:5000]), gammas)
    window.add(bins(times[5000:], nats[5000:]), gammas)
    profile = training_profile(window.take(10), DIMS)
    own = nats[(times >= 3 / BINS) & (times < 4 / BINS)].double()
    per_gamma = 1 / (BINS * BIT) / (15 / BINS)
    assert profile.images[3] == len(own)
    assert profile.bits_per_gamma[3] == pytest.approx(own.mean().item() * per_gamma)
    expected = (own.std() / math.sqrt(len(own))).item() * per_gamma
    assert profile.standard_error[3] == pytest.approx(expected)


def test_the_bins_ends_follow_the_schedule() -> None:
    """Intervals count by their images: 1 with γ(1) = 5, 3 with γ(1) = 9 make 8."""
    window = ProfileWindow(0)
    for count, last in ((100, 5.0), (300, 9.0)):
        times, nats = losses(count, 2)
        window.add(bins(times, nats), last * EDGES)
    assert training_profile(window.take(1), DIMS).gammas[-1] == pytest.approx(8.0)


def test_variance_is_that_of_the_examples() -> None:
    """In (bits/dim)², over all examples and times."""
    times, nats = losses(20_000, 3)
    expected = (nats.double() / BIT).var(correction=0).item()
    assert loss_variance(bins(times, nats), DIMS) == pytest.approx(expected)


def test_holes_are_not_counted_and_time_one_is() -> None:
    """A bad record's NaN reaches no bin; t = 1 belongs to the last one."""
    counter = TimeBins()
    counter.add(
        torch.tensor([2.0, math.nan]), torch.tensor([1.0, 0.5]), torch.tensor([True, False])
    )
    sums = counter.take()
    assert sums[:, -1].tolist() == [1.0, 2.0, 4.0]
    assert sums[:, :-1].abs().sum() == 0
    assert counter.take().abs().sum() == 0


def test_an_empty_bin_has_no_figure() -> None:
    """NaN, not zero: nothing was seen there."""
    window = ProfileWindow(0)
    window.add(bins(torch.tensor([0.5, 0.5]), torch.tensor([1.0, 2.0])), EDGES)
    profile = training_profile(window.take(1), DIMS)
    assert math.isnan(profile.bits_per_gamma[0])
    assert profile.images[0] == 0
    assert profile.as_json()["bits_per_gamma"][0] is None
    assert profile.as_json()["bits_per_gamma"][BINS // 2] == profile.bits_per_gamma[BINS // 2]
