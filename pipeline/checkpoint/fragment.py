"""A range of one parameter: the unit in which state is written, averaged and read."""

from typing import NamedTuple

from torch import Tensor

WEIGHTS, MOMENTS, AVERAGE = "weights", ("exp_avg", "exp_avg_sq"), "ema/"
"""Kinds of state; those of averages are `ema/<name>`."""


class Fragment(NamedTuple):
    """Elements `offset`, `offset` + 1, … of the flattened parameter `name`, 1-D float32."""

    name: str
    offset: int
    tensor: Tensor
