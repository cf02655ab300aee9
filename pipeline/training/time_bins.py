"""The diffusion loss of training's own examples by their time: its spread and its profile over γ.

An example's diffusion loss L belongs to one random time t. Averages of L in bins of t cost nothing
more than the step itself, and say which noise levels the model pays bits for: the mean of L over
a bin, times the bin's width in t, is the bin's share of the diffusion term, and divided by the
bin's width in γ its density (Kingma et al. 2021, equation 18).
"""

import math
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

BINS = 32
EDGES = torch.linspace(0.0, 1.0, BINS + 1)
"""The ends of the bins in t."""


class TimeBins:
    """Count, sum of L and sum of L² by bin of t, kept on the device: nothing waits for it."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self._sums = torch.zeros(3, BINS, dtype=torch.float64, device=device)

    def add(self, losses: Tensor, times: Tensor, valid: Tensor) -> None:
        """Add diffusion losses (B,) in nats at `times` (B,), where `valid` (B,) bool is true."""
        counted = valid.double()
        nats = torch.where(valid, losses.detach().double(), 0.0)
        place = (times * BINS).long().clamp(max=BINS - 1)
        self._sums.index_add_(1, place, torch.stack([counted, nats, nats.square()]))

    def take(self) -> Tensor:
        """The sums (3, BINS) float64; the bins start anew."""
        sums, self._sums = self._sums, torch.zeros_like(self._sums)
        return sums


def loss_variance(sums: Tensor, dims: int) -> float:
    """Var(L) over examples and times in (bits/dim)², from `TimeBins` sums; `dims` is C*H*W.

    NaN where nothing was counted.
    """
    count, first, second = sums.sum(1)
    variance = (second / count - (first / count).square()).item()
    return variance / (dims * math.log(2)) ** 2


@dataclass(frozen=True)
class TrainingProfile:
    """The diffusion term over γ, as the training steps `first_step` to `last_step` saw it.

    Bins lie between neighbouring `gammas` (BINS+1); `bits_per_gamma` is their mean density in
    bits/dim per unit of γ, and `standard_error` its error as of `images` independent examples
    (0 images: NaN). Its area is the mean diffusion term.
    """

    first_step: int
    last_step: int
    gammas: list[float]
    images: list[int]
    bits_per_gamma: list[float]
    standard_error: list[float]

    def as_json(self) -> dict[str, Any]:
        """The fields by name; a bin without a figure has None, for JSON knows no NaN."""
        values = asdict(self)
        for name in ("bits_per_gamma", "standard_error"):
            values[name] = [x if math.isfinite(x) else None for x in values[name]]
        return values


class Window(NamedTuple):
    """`TimeBins` sums (3, BINS) of steps `first` to `last`, and γ (BINS+1,) at the bins' ends."""

    first: int
    last: int
    sums: Tensor
    gammas: Tensor


def training_profile(window: Window, dims: int) -> TrainingProfile:
    """The diffusion term's profile; `dims` is C*H*W."""
    (count, first, second), gammas = window.sums, window.gammas
    mean = first / count
    variance = (second / count - mean.square()).clamp(min=0) * count / (count - 1)
    density = 1 / (BINS * gammas.diff() * dims * math.log(2))  # of one nat in a bin
    return TrainingProfile(
        first_step=window.first,
        last_step=window.last,
        gammas=gammas.tolist(),
        images=count.long().tolist(),
        bits_per_gamma=(mean * density).tolist(),
        standard_error=((variance / count).sqrt() * density).tolist(),
    )


class ProfileWindow:
    """Adds up the bins of interval after interval, until there is enough for a picture.

    γ may move meanwhile: each bin's ends are averaged over the intervals by their images.
    """

    def __init__(self, step: int) -> None:
        """The window begins after `step`."""
        self._begin(step)

    def _begin(self, step: int) -> None:
        self._step = step
        self._sums = torch.zeros(3, BINS, dtype=torch.float64)
        self._gammas = torch.zeros(BINS + 1, dtype=torch.float64)

    def add(self, sums: Tensor, gammas: Tensor) -> None:
        """Add `TimeBins` sums (3, BINS) of all ranks, and γ (BINS+1,) at `EDGES`."""
        self._sums += sums
        self._gammas += sums[0].sum() * gammas.double()

    def take(self, step: int) -> Window:
        """What was added up to `step`; the window begins anew."""
        gammas = self._gammas / self._sums[0].sum()
        window = Window(self._step + 1, step, self._sums, gammas)
        self._begin(step)
        return window
