"""Part of a dataset as a dataset: the same blocks, with fewer of their samples.

Blocks without a chosen sample are never read. Order, streaming and resumption work as on the whole,
because they only know how many samples a block has.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from pipeline.config.data import SelectConfig, SplitConfig
from pipeline.data.dataset import ShardBlock, ShardedDataset
from pipeline.data.sample_index import SampleIndex, sample_index
from pipeline.errors import InputError

Mask = NDArray[np.bool_]


def selected(dataset: ShardedDataset, select: SelectConfig) -> ShardedDataset:
    """The samples of `dataset` that `select` names; `dataset` itself for all.

    Raises InputError for labels that the set does not have, an empty choice or unreadable shards.
    """
    if select == SelectConfig():
        return dataset
    index = sample_index(dataset)
    mask = _mask(dataset, index, select)
    if not mask.any():
        raise InputError(f"no sample of {dataset.folder} is chosen by {select}; choose more")
    return _masked(dataset, mask, index)


def selected_by_class(dataset: ShardedDataset, select: SelectConfig) -> list[ShardedDataset]:
    """What `select` names, as one set for each of its labels (by default all), ascending.

    Raises InputError as `selected` does, and for labels without samples.
    """
    classes = dataset.info.classes
    if classes is None:
        raise InputError(f"data.balance=classes needs labels, and {dataset.folder} has none")
    index = sample_index(dataset)
    mask = _mask(dataset, index, select)
    labels = sorted(set(select.labels or range(classes)))
    masks = {label: mask & (index.labels == label) for label in labels}
    empty = [label for label, part in masks.items() if not part.any()]
    if empty:
        raise InputError(
            f"data.balance=classes: no sample of {dataset.folder} is chosen for the labels "
            f"{empty}; leave them out with select.labels"
        )
    return [_masked(dataset, part, index) for part in masks.values()]


def _mask(dataset: ShardedDataset, index: SampleIndex, select: SelectConfig) -> Mask:
    mask = np.ones(dataset.info.samples, np.bool_)
    if select.split:
        mask &= in_part(index.key_hashes, select.split)
    if select.labels:
        _check_labels(select.labels, dataset.info.classes)
        mask &= np.isin(index.labels, select.labels)
    return mask


def in_part(key_hashes: NDArray[np.uint64], split: SplitConfig) -> Mask:
    """Which samples, by the hashes of their keys (n,), are in the part."""
    validation = _mixed(key_hashes, split.seed) < np.uint64(int(split.fraction * 2**64))
    return validation if split.part == "validation" else ~validation


def _mixed(hashes: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """Other hashes for each seed: SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) of both."""
    z = hashes + np.random.Philox(key=np.array([seed, 0], np.uint64)).random_raw(1)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def thinned(dataset: ShardedDataset, count: int) -> tuple[ShardedDataset, NDArray[np.int64]]:
    """At most `count` samples, evenly from the whole of `dataset`, and their places in it.

    What the part has of each label is not counted.
    """
    total = dataset.info.samples
    places = np.arange(min(count, total), dtype=np.int64) * total // min(count, total)
    mask = np.zeros(total, np.bool_)
    mask[places] = True
    info = replace(dataset.info, samples=len(places))
    return replace(dataset, info=info, blocks=_kept(dataset, mask), label_counts=()), places


def _kept(dataset: ShardedDataset, mask: Mask) -> tuple[ShardBlock, ...]:
    """The blocks with the masked of the samples that they have; without those that have none."""
    ends = np.cumsum(dataset.block_samples)
    rows = [np.flatnonzero(part) for part in np.split(mask, ends[:-1])]
    return tuple(
        block._replace(kept=tuple(_among(block, kept)))
        for block, kept in zip(dataset.blocks, rows, strict=True)
        if len(kept)
    )


def _among(block: ShardBlock, rows: NDArray[np.int64]) -> list[int]:
    """Rows among the samples used so far, as rows of the whole block."""
    return [row if block.kept is None else block.kept[row] for row in rows.tolist()]


def _masked(dataset: ShardedDataset, mask: Mask, index: SampleIndex) -> ShardedDataset:
    labels = index.labels[mask]
    counts = np.bincount(labels[labels >= 0], minlength=dataset.info.classes or 0).tolist()
    return replace(
        dataset,
        info=replace(dataset.info, samples=int(mask.sum())),
        blocks=_kept(dataset, mask),
        label_counts=tuple(counts) if dataset.info.classes else (),
    )


def _check_labels(labels: tuple[int, ...], classes: int | None) -> None:
    if classes is None:
        raise InputError("select.labels needs a labelled set; this one has no labels")
    wrong = [label for label in labels if not 0 <= label < classes]
    if wrong:
        raise InputError(f"select.labels: {wrong} are outside 0..{classes - 1}")
