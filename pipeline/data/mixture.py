"""Several sets as one training set: which ones, how much of each, and whether they fit together."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from pipeline.config.data import ComponentConfig
from pipeline.config.train import DataConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.manifest import DatasetInfo
from pipeline.data.select import selected, selected_by_class
from pipeline.errors import InputError


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


def open_mixture(paths: Sequence[str], data: DataConfig) -> Mixture:
    """Open the set of each component of `data.train` at the path or URL of the same number.

    `data.select` is for components without a choice of their own. The digest is the manifest's
    where that says all; else it covers manifests, weights and the components' choices, in order.

    Raises InputError for sets that cannot be read or that differ in shape, levels or classes, for
    impossible choices, and for a balance of several sets or of classes without samples.
    """
    components = data.train
    if data.balance and len(paths) > 1:
        raise InputError("data.balance=classes is for one set: mix none, or leave it out")
    wholes = [open_dataset(path) for path in paths]
    _check_alike(wholes)
    choices = [component.select or data.select for component in components]
    if data.balance:
        parts = [Component(part, 1) for part in selected_by_class(wholes[0], choices[0])]
    else:
        triples = zip(wholes, choices, components, strict=True)
        parts = [Component(selected(whole, s), c.weight) for whole, s, c in triples]
    infos = [whole.info for whole in wholes]
    samples = sum(part.dataset.info.samples for part in parts)
    return Mixture(tuple(parts), _joined(infos, samples, _digest(infos, components)))


def _check_alike(datasets: Sequence[ShardedDataset]) -> None:
    first = datasets[0]
    for other in datasets[1:]:
        for name in ("shape", "levels", "classes", "class_names"):
            one, two = getattr(first.info, name), getattr(other.info, name)
            if one != two:
                raise InputError(
                    f"data.train cannot mix {first.folder} and {other.folder}: {name} is {one} "
                    f"in the first and {two} in the second; prepare them alike"
                )


def _digest(infos: Sequence[DatasetInfo], components: Sequence[ComponentConfig]) -> str:
    if len(infos) == 1 and components[0].select is None:
        return infos[0].manifest_sha256
    parts = [
        [info.manifest_sha256, c.weight, c.select and c.select.model_dump(mode="json")]
        for info, c in zip(infos, components, strict=True)
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _joined(infos: Sequence[DatasetInfo], samples: int, digest: str) -> DatasetInfo:
    """One description of alike sets: what was measured on one of several is left out."""
    if len(infos) == 1:
        return replace(infos[0], samples=samples, manifest_sha256=digest)
    first = infos[0]
    return DatasetInfo(
        split=_listed(info.split for info in infos),
        shape=first.shape,
        classes=first.classes,
        class_names=first.class_names,
        levels=first.levels,
        encoding=_listed(info.encoding for info in infos),
        source=_listed(info.source for info in infos),
        licence=_listed(info.licence for info in infos),
        samples=samples,
        manifest_sha256=digest,
    )


def _listed(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(text for text in texts if text))
