"""Power-function averages: width and exponent, the recursion's profile, post-hoc combination."""

import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from vdm_core.ema import ema_start, ema_update
from vdm_core.ema_power import WIDEST, PowerAverage, post_hoc, power_decay, power_exponent

WIDTHS = (1e-3, 0.03, 0.05, 0.1, 0.2, WIDEST)
STEPS = 400


def profile(average: PowerAverage, cells: int) -> Tensor:
    """Its integral over each of ``cells`` equal parts of (0, STEPS], float64."""
    edges = torch.linspace(0, STEPS, cells + 1, dtype=torch.float64).clamp(max=average.step)
    return ((edges / average.step) ** (power_exponent(average.width) + 1)).diff()


def followed(path: Tensor, widths: Sequence[float], at: set[int]) -> dict[PowerAverage, Tensor]:
    """The averages of a path (STEPS, D) by their recursion, as they are after the steps ``at``."""
    tracks = {width: ema_start([torch.full_like(path[0], 1e3)]) for width in widths}
    kept = {}
    for step, values in enumerate(path):
        for width, averages in tracks.items():
            ema_update(averages, [values], power_decay(step, width))
            if step + 1 in at:
                kept[PowerAverage(step + 1, width)] = averages[0].clone()
    return kept


def random_walk() -> Tensor:
    """(STEPS, 5) float64, from a start far off."""
    steps = torch.randn(STEPS, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    return 7 + steps.cumsum(0)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_profile_is_as_wide_as_it_says(width: float) -> None:
    """The exponent's profile, summed up numerically, has integral 1 and this standard deviation."""
    tau = torch.arange(0.5, 200_000, dtype=torch.float64) / 200_000
    k = power_exponent(width)
    p = (k + 1) * tau**k / 200_000
    mean = (p * tau).sum()
    assert p.sum() == pytest.approx(1, rel=1e-4)
    assert (p * (tau - mean) ** 2).sum().sqrt() == pytest.approx(width, rel=1e-4)
    assert math.sqrt((k + 1) / ((k + 2) ** 2 * (k + 3))) == pytest.approx(width, rel=1e-12)


def test_exponents_that_the_paper_names() -> None:
    """Widths of 5 % and 10 % have exponents 16.97 and 6.94 (section 3.1); all steps alike is 0."""
    assert [power_exponent(w) for w in (0.05, 0.1)] == pytest.approx([16.97, 6.94], abs=5e-3)
    assert power_exponent(WIDEST) == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_recursion_gives_each_step_its_cell_of_the_profile(width: float) -> None:
    """Averages of unit vectors are the steps' weights; the start is gone at once."""
    averages = ema_start([torch.full((STEPS,), 1e3, dtype=torch.float64)])
    for step in range(STEPS):
        ema_update(
            averages, [torch.eye(STEPS, dtype=torch.float64)[step]], power_decay(step, width)
        )
    expected = profile(PowerAverage(STEPS, width), STEPS)
    torch.testing.assert_close(averages[0], expected, rtol=1e-9, atol=1e-12)


def test_a_plain_mean_is_the_widest_average() -> None:
    path = random_walk()
    mean = followed(path, [WIDEST], {STEPS})[PowerAverage(STEPS, WIDEST)]
    torch.testing.assert_close(mean, path.mean(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [0.03, 0.05, 0.07, 0.15])
@pytest.mark.parametrize("every", [25, 100])
def test_post_hoc_is_the_least_squares_fit_of_profiles(width: float, every: int) -> None:
    """Against a fit on a grid of 40 cells a step: same weights, same distance, sum 1."""
    snapshots = [PowerAverage(s, w) for s in range(every, STEPS + 1, every) for w in (0.05, 0.1)]
    target = PowerAverage(STEPS, width)
    found = post_hoc(snapshots, target)
    columns = torch.stack([profile(s, 40 * STEPS) for s in snapshots], 1)
    wanted = profile(target, 40 * STEPS)
    # sum 1: weight on the last column is one minus the others'
    free = columns[:, :-1] - columns[:, -1:]
    solved = torch.linalg.lstsq(free, (wanted - columns[:, -1])[:, None]).solution[:, 0]
    reference = torch.cat([solved, 1 - solved.sum(0, keepdim=True)])
    torch.testing.assert_close(found.weights, reference, rtol=1e-3, atol=1e-4)
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)
    distance = (columns @ found.weights - wanted).norm() / wanted.norm()
    assert found.error == pytest.approx(float(distance), rel=1e-3, abs=1e-6)


@pytest.mark.parametrize("width", [0.05, 0.1])
@pytest.mark.parametrize("step", [100, STEPS])
def test_post_hoc_of_a_snapshot_is_that_snapshot(width: float, step: int) -> None:
    snapshots = [PowerAverage(s, w) for s in range(50, STEPS + 1, 50) for w in (0.05, 0.1)]
    found = post_hoc(snapshots, PowerAverage(step, width))
    alone = torch.tensor([float(s == (step, width)) for s in snapshots], dtype=torch.float64)
    torch.testing.assert_close(found.weights, alone, rtol=0, atol=1e-9)
    assert found.error < 1e-6


def test_snapshots_that_repeat_each_other_share_the_weight() -> None:
    """A checkpoint at the step of a snapshot holds the same averages twice."""
    twice = [PowerAverage(STEPS, 0.05), PowerAverage(STEPS, 0.1)] * 2
    found = post_hoc(twice, PowerAverage(STEPS, 0.07))
    once = post_hoc(twice[:2], PowerAverage(STEPS, 0.07))
    torch.testing.assert_close(found.weights[:2] + found.weights[2:], once.weights)
    assert found.error == pytest.approx(once.error, rel=1e-6)


@pytest.mark.parametrize("width", [0.04, 0.07, 0.15])
def test_post_hoc_is_near_the_direct_average_and_nearer_with_more_snapshots(width: float) -> None:
    """A random walk: the distance keeps to the stated bound, which falls with the spacing."""
    path, errors = random_walk(), []
    target = PowerAverage(STEPS, width)
    direct = followed(path, [width], {STEPS})[target]
    # || p || of the target; the path, less its mean, is constant between steps
    k = power_exponent(width)
    length = (k + 1) / math.sqrt((2 * k + 1) * STEPS)
    for every in (100, 50, 25):
        kept = followed(path, [0.05, 0.1], set(range(every, STEPS + 1, every)))
        found = post_hoc(list(kept), target)
        made = found.weights @ torch.stack(list(kept.values()))
        bound = found.error * length * (path - path.mean(0)).norm(dim=0)
        assert ((made - direct).abs() <= bound + 1e-9).all()
        errors.append(found.error)
    assert all(more < 0.7 * less for less, more in itertools.pairwise(errors))
    assert errors[-1] < 0.03


def test_a_path_that_stands_still_is_reconstructed_exactly() -> None:
    """Even far outside the widths of the snapshots, where the profile cannot be met."""
    found = post_hoc([PowerAverage(10, 0.05), PowerAverage(20, 0.05)], PowerAverage(20, 0.25))
    assert found.error > 0.3
    assert found.weights.sum() == pytest.approx(1, abs=1e-12)


def test_numbers_out_of_range_are_errors() -> None:
    for width in (0.0, -0.1, 0.29, math.nan):
        with pytest.raises(ValueError, match="width"):
            power_decay(1, width)
    with pytest.raises(ValueError, match="step"):
        power_decay(-1, 0.1)
    for snapshots, step in (([], 5), ([PowerAverage(0, 0.1)], 5), ([PowerAverage(5, 0.1)], 0)):
        with pytest.raises(ValueError, match="snapshot"):
            post_hoc(snapshots, PowerAverage(step, 0.1))
