"""How often a run should save, and how much of its time it then keeps, on hardware that fails.

Failures come with a constant rate, M seconds apart on average. A run saves after every τ seconds
of work; a save stops the work for δ seconds and is safe `write` seconds later, since it is written
beside the training. A failure costs what was done since the last safe save, and R seconds until
training goes on.
"""

import math
from typing import NamedTuple


class Faults(NamedTuple):
    """Seconds: `mtbf` (M) between failures of the whole job, `stall` (δ) of the work by a save,
    `write` until a save is safe, `restart` (R) from a failure to the first new step.
    """

    mtbf: float
    stall: float
    write: float
    restart: float


def job_mtbf(nodes: int, failures_per_1000_node_days: float) -> float:
    """Seconds between failures of a job on so many nodes, any of which ends it; inf for none.

    Nodes fail independently (Kokolis et al. 2024, section III, whose unit this is).
    """
    daily = nodes * failures_per_1000_node_days / 1000
    return 86400 / daily if daily else math.inf


def young_interval(mtbf: float, stall: float) -> float:
    """τ = sqrt(2 δ M), seconds of work between saves (Young 1974)."""
    return math.sqrt(2 * stall * mtbf)


def daly_interval(mtbf: float, stall: float) -> float:
    """The τ of Daly (2006), equation 37: Young's with two more terms; M where δ is 2 M or more."""
    if mtbf == math.inf:
        return math.inf
    if stall >= 2 * mtbf:
        return mtbf
    ratio = math.sqrt(stall / (2 * mtbf))
    return young_interval(mtbf, stall) * (1 + ratio / 3 + ratio**2 / 9) - stall


def best_interval(faults: Faults) -> float:
    """Daly's interval, or the time a save takes to be written if that is longer: one at a time."""
    return max(daly_interval(faults.mtbf, faults.stall), faults.write, faults.stall)


def goodput(faults: Faults, interval: float) -> float:
    """The share of the wall clock that is work which is kept, saving every `interval` seconds.

    Daly (2006), equation 20: an exact expectation, in which a segment of τ + δ seconds is tried
    until no failure hits it, and a failure may hit a restart too. That a save is safe only
    `write` seconds later makes a failure lose as much more; it is added to R.
    """
    if faults.mtbf == math.inf:
        return interval / (interval + faults.stall) if interval < math.inf else 1.0
    again = (faults.restart + faults.write) / faults.mtbf
    tries = (interval + faults.stall) / faults.mtbf
    if again + tries > 700:  # e^700 is about the largest float64: nothing is ever finished
        return 0.0
    return interval / (faults.mtbf * math.exp(again) * math.expm1(tries))
