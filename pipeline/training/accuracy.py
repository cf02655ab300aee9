"""How a noise-aware classifier does over the noise levels, from the training steps' own examples.

The bins of t are those of the diffusion loss (`TimeBins`); here they hold how many were right.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from torch import Tensor

from pipeline.training.time_bins import Window


def accuracy_figures(sums: Tensor) -> dict[str, float]:
    """Share of the examples classified rightly, in all and by quarters of t, from `TimeBins` sums.

    The quarters end at `schedule/gamma_025` and so on. NaN where nothing was counted.
    """
    count, right, _ = sums
    quarters = (right.view(4, -1).sum(1) / count.view(4, -1).sum(1)).tolist()
    return {"train/accuracy": float(right.sum() / count.sum())} | {
        f"accuracy/quarter_{number}": share for number, share in enumerate(quarters, start=1)
    }


@dataclass(frozen=True)
class AccuracyProfile:
    """Accuracy over γ, as the training steps `first_step` to `last_step` saw it.

    Bins lie between neighbouring `gammas` (BINS+1); `standard_error` is that of a share of
    `images` independent examples. A bin without images has NaN in both.
    """

    first_step: int
    last_step: int
    gammas: list[float]
    images: list[int]
    accuracy: list[float]
    standard_error: list[float]

    def as_json(self) -> dict[str, Any]:
        """The fields by name; a bin without a figure has None, for JSON knows no NaN."""
        values = asdict(self)
        for name in ("accuracy", "standard_error"):
            values[name] = [x if math.isfinite(x) else None for x in values[name]]
        return values


def accuracy_profile(window: Window) -> AccuracyProfile:
    """The profile of a window."""
    count, right, _ = window.sums
    share = right / count
    return AccuracyProfile(
        first_step=window.first,
        last_step=window.last,
        gammas=window.gammas.tolist(),
        images=count.long().tolist(),
        accuracy=share.tolist(),
        standard_error=(share * (1 - share) / count).sqrt().tolist(),
    )
