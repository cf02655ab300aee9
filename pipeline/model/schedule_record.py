"""The noise schedule of a trained model as a record of its own: its ends, its curve, its digest.

Two models with the same `schedule_sha256` walk the same γ(t), whatever their networks.
"""

import hashlib
from collections.abc import Mapping

import torch
from safetensors.torch import save as save_tensors
from torch import Tensor

from pipeline.config.base import ConfigModel
from vdm_core import Schedule
from vdm_core.adaptive import at_prior_mean

CURVE_POINTS = 201
_PREFIX, _INNER = "schedule.", "vdm."


class ScheduleRecord(ConfigModel):
    """Contents of `schedule.json`: γ, the negative log-SNR, over t, evenly from 0 to 1.

    Where each pixel has a γ of its own, `gamma` and `slope` are means over the pixels, and the
    lowest and highest γ stand beside them; where images have one, it is that at latent 0.
    """

    kind: str
    gamma_0: float
    gamma_1: float
    t: tuple[float, ...]
    gamma: tuple[float, ...]
    slope: tuple[float, ...]
    gamma_lowest: tuple[float, ...] | None
    gamma_highest: tuple[float, ...] | None
    schedule_sha256: str


def schedule_digest(kind: str, weights: Mapping[str, Tensor]) -> str:
    """SHA-256 over the kind of schedule and its tensors in a model's state dict, by name.

    The model is a VDM, or has one of latents inside.
    """
    names = {name.removeprefix(_INNER): value for name, value in weights.items()}
    own = {name: value for name, value in names.items() if name.startswith(_PREFIX)}
    blob: bytes = save_tensors({name: own[name].contiguous() for name in sorted(own)})
    return hashlib.sha256(kind.encode() + b"\n" + blob).hexdigest()


def schedule_record(kind: str, schedule: Schedule) -> ScheduleRecord:
    """The record of a schedule on the CPU."""
    t = torch.linspace(0.0, 1.0, CURVE_POINTS)
    with torch.no_grad():
        point = at_prior_mean(schedule, t)
    gamma, slope = (value.double().reshape(CURVE_POINTS, -1) for value in point)
    many = gamma.shape[1] > 1
    mean = tuple(gamma.mean(1).tolist())
    weights = {_PREFIX + name: value for name, value in schedule.state_dict().items()}
    return ScheduleRecord(
        kind=kind,
        gamma_0=mean[0],
        gamma_1=mean[-1],
        t=tuple(t.tolist()),
        gamma=mean,
        slope=tuple(slope.mean(1).tolist()),
        gamma_lowest=tuple(gamma.amin(1).tolist()) if many else None,
        gamma_highest=tuple(gamma.amax(1).tolist()) if many else None,
        schedule_sha256=schedule_digest(kind, weights),
    )
