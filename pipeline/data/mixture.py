"""Several sets as one training set: which ones, how much of each, and whether they fit together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from pipeline.config.data import ComponentConfig, SelectConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.manifest import DatasetInfo
from pipeline.data.select import selected, selected_by_class
from pipeline.errors import InputError

Balance = Literal["classes"]


class Component(NamedTuple):
    """A set, and its share of the samples in relation to the others'."""

    dataset: ShardedDataset
    weight: int


@dataclass(frozen=True)
class Mixture:
    """What training reads; a single set is a mixture of one."""

    components: tuple[Component, ...]
    info: DatasetInfo  # of all together; manifest_sha256 is the digest of the whole


def single(dataset: ShardedDataset) -> Mixture:
    """One set."""
    return Mixture((Component(dataset, 1),), dataset.info)


def open_mixture(
    paths: Sequence[str],
    components: Sequence[ComponentConfig],
    select: SelectConfig,
    balance: Balance | None = None,
) -> Mixture:
    """Open the set of each component at the path or URL of the same number.

    `select` is for components without a choice of their own.

    Raises InputError for sets that cannot be read or that differ in shape, levels or classes, for
    impossible choices, and for a balance of classes where one has no samples.
    """
    whole = [open_dataset(path) for path in paths]
    choices = [component.select or select for component in components]
    if balance and len(whole) == 1:
        parts = selected_by_class(whole[0], choices[0])
        samples = sum(part.info.samples for part in parts)
        info = DatasetInfo(**{**vars(whole[0].info), "samples": samples})
        return Mixture(tuple(Component(part, 1) for part in parts), info)
    chosen = [selected(*pair) for pair in zip(whole, choices, strict=True)]
    if len(chosen) == 1 and components[0].select is None:
        return single(chosen[0])
    _check_alike(chosen)
    mixed = tuple(Component(d, c.weight) for d, c in zip(chosen, components, strict=True))
    return Mixture(mixed, _info(mixed, choices))
