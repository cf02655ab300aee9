"""The moving averages of a run: each rank keeps those of its share of the weights."""

from collections.abc import Sequence

from torch import Tensor

from pipeline.config.average import AverageConfig
from vdm_core.ema import ema_start, ema_update

Averages = dict[str, list[Tensor]]
"""By `AverageConfig.name`; each has a tensor beside every one of `Engine.weights()`."""


def start_averages(ema: Sequence[AverageConfig], weights: Sequence[Tensor]) -> Averages:
    """All averages at the initial weights."""
    return {average.name: ema_start(weights) for average in ema}


def update_averages(
    averages: Averages, ema: Sequence[AverageConfig], step: int, weights: Sequence[Tensor]
) -> None:
    """Take in the weights after optimizer step 0, 1, …, in place."""
    for average in ema:
        ema_update(averages[average.name], weights, average.decay_at(step))
