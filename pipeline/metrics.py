"""The figures a run reports: sums on the device, means on the host, one progress line."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Scalar = str | int | float | bool | None
_SHORT = {
    "train/reconstruction": "rec",
    "train/prior": "prior",
    "train/diffusion": "diff",
    "train/encoder": "enc",  # of a VDM of latents only, and the next
    "train/latent": "lat",
    "train/auxiliary": "aux",  # of an adaptive schedule only
    "train/accuracy": "accuracy",  # of a classifier only
}

_PHASES = {
    "wait": ("data_wait",),
    "forward": ("forward",),
    "backward": ("backward",),
    "update": ("optimizer", "average"),
}


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Scalar]:
    """Nested mappings as one level: `{"a": {"b": 1}}` becomes `{"a.b": 1}`.

    Sequences and empty mappings become JSON text, whatever is no scalar becomes `str(value)`.
    """
    flat: dict[str, Scalar] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{name}.")
        elif isinstance(value, Mapping | list | tuple):
            flat[name] = json.dumps(value, default=str)
        elif value is None or isinstance(value, str | int | float):
            flat[name] = value
        else:
            flat[name] = str(value)
    return flat


class StepMeter:
    """Weighted sums of per-example values over a logging interval, kept on the device.

    `add` starts no transfer to the host, so it does not wait for the device. At the end of the
    interval the caller takes the totals, adds them over the ranks, and asks for the means:

        totals = meter.take()
        torch.distributed.all_reduce(totals)
        values = meter.means(totals)
    """

    def __init__(self, names: Sequence[str], device: torch.device | str = "cpu") -> None:
        self.names = tuple(names)
        self._totals = torch.zeros(len(self.names) + 1, dtype=torch.float64, device=device)

    def add(self, values: Mapping[str, Tensor], valid: Tensor) -> None:
        """Adds one micro-batch: `values[name]` (B,), counted where `valid` (B,) bool is true.

        Raises ValueError if the names are not the meter's.
        """
        if set(values) != set(self.names):
            raise ValueError(
                f"StepMeter for {sorted(self.names)} was given {sorted(values)}: "
                "pass every name of the meter and no other"
            )
        columns = torch.stack([values[name].detach() for name in self.names], dim=1).double()
        self._totals[:-1] += torch.where(valid[:, None], columns, 0.0).sum(dim=0)
        self._totals[-1] += valid.sum()

    def take(self) -> Tensor:
        """The sums and, last, the count: (len(names) + 1,) float64. The meter starts anew."""
        totals, self._totals = self._totals, torch.zeros_like(self._totals)
        return totals

    def means(self, totals: Tensor) -> dict[str, float]:
        """Mean of each name, in one transfer to the host; NaN where nothing was counted."""
        *sums, count = totals.tolist()
        pairs = zip(self.names, sums, strict=True)
        return {name: total / count if count else math.nan for name, total in pairs}


def elbo_metrics(nats: Mapping[str, float], dims: int) -> dict[str, float]:
    """The ELBO figures of a training step in bits/dim, from the means of all its terms in nats.

    `dims` is C*H*W. The total comes as `train/bits_per_dim`, each term as `train/<term>` (Kingma
    et al. 2021, equation 11).
    """
    bits = {f"train/{term}": value / (dims * math.log(2)) for term, value in nats.items()}
    return {"train/bits_per_dim": sum(bits.values())} | bits


def duration_text(seconds: float) -> str:
    """Two units are enough to plan by: `45s`, `1m52s`, `3h07m`, `2d04h`."""
    whole = round(seconds)
    for unit, name, sub, sub_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "m")):
        if whole >= unit:
            return f"{whole // unit}{name}{whole % unit // sub:02d}{sub_name}"
    return f"{whole // 60}m{whole % 60:02d}s" if whole >= 60 else f"{whole}s"


def progress_line(step: int, last_step: int, values: Mapping[str, float]) -> str:
    """One line for people, from the figures of an interval.

    The shares are those of the whole time between two lines: waiting for data, the two passes,
    the optimizer with the average, and the rest (pictures, saving, tracking).
    """
    shown = {short: values[name] for name, short in _SHORT.items() if name in values}
    if levels := [value for name, value in values.items() if name.startswith("train/kl_")]:
        shown["kl"] = sum(levels)
    terms = " ".join(f"{short} {value:.2f}" for short, value in shown.items())
    unit = "bits/label" if "train/accuracy" in values else "bits/dim"
    rate, left = values["train/images_per_second"], duration_text(values["train/seconds_left"])
    return (
        f"step {step}/{last_step}  {values['train/bits_per_dim']:.3f} {unit}  ({terms})  "
        f"{rate:.0f} images/s ({_shares(values)})  {left} left"
    )


def _shares(values: Mapping[str, float]) -> str:
    total = values["time/total_seconds"]
    share = {
        short: sum(values[f"time/{phase}_seconds"] for phase in phases) / total
        for short, phases in _PHASES.items()
    }
    share["rest"] = 1 - sum(share.values())
    return " ".join(f"{short} {part:.0%}" for short, part in share.items())
