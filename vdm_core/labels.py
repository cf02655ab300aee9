"""What a label may be: a class from 0 up, or -1 for "no label", the null condition of guidance."""

from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

NO_LABEL = -1


@runtime_checkable
class StatesClasses(Protocol):
    """A network that says how many classes it knows; None if it is unconditional."""

    classes: int | None


def check_labels(labels: Tensor | None, classes: int | None) -> None:
    """Raise ValueError if a label is neither -1 nor a class of a network with so many classes.

    Labels on an accelerator, or under torch.compile, are not looked at: that would stall the one
    and break the other's graph. Call this once on the CPU where the labels come from.

    Args:
        labels: (B,) int64, or None for no label throughout.
        classes: number of classes, or None for an unconditional network.
    """
    if labels is None or labels.device.type != "cpu" or torch.compiler.is_compiling():
        return
    if labels.dtype != torch.int64:
        raise ValueError(f"labels are {labels.dtype}; give them as int64")
    wrong = (labels < NO_LABEL) | (labels >= (classes or 0))
    if not wrong.any():
        return
    first = labels[wrong][0].item()
    if classes is None:
        raise ValueError(
            f"label {first}: this network has no classes; pass labels=None, or build it with "
            "classes=<number of classes>"
        )
    raise ValueError(f"label {first} is none of {classes} classes: 0 to {classes - 1}, or -1")
