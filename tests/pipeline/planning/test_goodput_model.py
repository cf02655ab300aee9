"""The model of failures and checkpoints: simulations, numerical optima and what others saw."""

import math

import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from pipeline.planning.goodput import (
    Faults,
    best_interval,
    daly_interval,
    goodput,
    job_mtbf,
    young_interval,
)

HOUR, DAY = 3600.0, 86400.0


@pytest.mark.parametrize("mtbf", [10 * HOUR, 1 * HOUR, 0.2 * HOUR])
@pytest.mark.parametrize("stall", [1.0, 30.0, 120.0])
def test_dalys_interval_is_the_best(mtbf: float, stall: float) -> None:
    """No interval keeps more than a thousandth more than Daly's, by a numerical search."""
    faults = Faults(mtbf, stall, 0.0, 60.0)
    best = minimize_scalar(
        lambda interval: -goodput(faults, interval), bounds=(1e-3, 10 * mtbf), method="bounded"
    )
    assert goodput(faults, daly_interval(mtbf, stall)) >= -best.fun - 1e-3


def test_young_and_daly_agree_where_failures_are_rare() -> None:
    """Daly's series begins with Young's interval (Daly 2006, equation 37)."""
    assert daly_interval(1e9, 1.0) == pytest.approx(young_interval(1e9, 1.0), rel=1e-4)
    assert young_interval(50.0, 4.0) == 20.0
    assert daly_interval(10.0, 20.0) == 10.0


@pytest.mark.parametrize(
    ("faults", "interval"),
    [(Faults(1000.0, 5.0, 0.0, 30.0), 100.0), (Faults(300.0, 20.0, 0.0, 60.0), 90.0)],
)
def test_the_share_that_is_kept_is_that_of_a_simulation(faults: Faults, interval: float) -> None:
    """Failures drawn one by one; restarts may fail, too. Four standard errors."""
    rng, shares = np.random.default_rng(0), []
    for _ in range(30):
        wall = 0.0
        for _ in range(300):
            while (lived := rng.exponential(faults.mtbf)) < interval + faults.stall:
                wall += lived
                while (lived := rng.exponential(faults.mtbf)) < faults.restart:
                    wall += lived
                wall += faults.restart
            wall += interval + faults.stall
        shares.append(300 * interval / wall)
    error = np.std(shares, ddof=1) / math.sqrt(len(shares))
    assert np.mean(shares) == pytest.approx(goodput(faults, interval), abs=4 * error)


def test_mean_times_to_failure_that_were_published() -> None:
    """Kokolis et al. 2024: 6.5 failures in 1000 node-days project to 1.8 h on 16,384 GPUs and
    0.23 h on 131,072; a job of one node lived 47.7 days, one of 1,024 GPUs 7.9 h.
    """
    assert job_mtbf(16384 // 8, 6.5) / HOUR == pytest.approx(1.8, abs=0.05)
    assert job_mtbf(131072 // 8, 6.5) / HOUR == pytest.approx(0.23, abs=0.005)
    assert job_mtbf(1024 // 8, 1000 / 47.7) / HOUR == pytest.approx(7.9, rel=0.15)


def test_the_goodput_of_llama_3() -> None:
    """419 unexpected failures in 54 days on 16,384 GPUs left more than 90 % (Dubey et al. 2024,
    section 3.3.4): so does the model with ten minutes a restart, and not with half an hour.
    """
    mtbf = 54 * DAY / 419
    assert mtbf / HOUR == pytest.approx(3.1, abs=0.05)

    def kept(restart: float) -> float:
        faults = Faults(mtbf, stall=2.0, write=60.0, restart=restart)
        return goodput(faults, best_interval(faults))

    assert kept(600.0) > 0.9 > kept(1800.0)


def test_without_failures_only_the_stalls_are_lost() -> None:
    """An endless time between failures; and one so short that nothing is ever finished."""
    faults = Faults(math.inf, 2.0, 5.0, 100.0)
    assert goodput(faults, 98.0) == pytest.approx(0.98)
    assert goodput(faults, best_interval(faults)) == 1.0
    assert goodput(Faults(1.0, 2.0, 5.0, 1000.0), 10.0) == 0.0
    assert best_interval(Faults(100.0, 0.01, 50.0, 10.0)) == 50.0
