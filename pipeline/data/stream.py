"""Shards to batches: the training sequence of one worker, and one pass in manifest order.

A stream's whole state is the next global sample index: it can be opened anywhere, by any number of
workers, and gives the same samples.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Generator, Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from pipeline.config.data import TransformConfig
from pipeline.data.collate import batch_of, fill
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.encoded import Sample, gathered
from pipeline.data.faults import Faults, Policy
from pipeline.data.loaders import loaded
from pipeline.data.mixture import Mixture, single
from pipeline.data.prefetch import Prefetch
from pipeline.data.source import Cut, Decoded, EpochPlace, Source
from pipeline.data.transform import NO_TRANSFORM, centred, seen_shape
from pipeline.errors import InputError
from vdm_core.records import Batch

__all__ = ["ShardedDataset", "TrainingStream", "iterate_once", "open_dataset"]

_IN_HAND = 3  # batches that are neither being made nor waiting: in the step, and on their way to it


class TrainingStream:
    """The endless micro-batches of worker `rank` of `world_size`, from sample index `start`.

    Each step has (global_batch / world_size) / micro_batch of them. `faults` counts and describes
    the samples that left holes; it may be ahead of the consumer by what is prefetched.
    """

    def __init__(
        self,
        data: ShardedDataset | Mixture,
        *,
        seed: int,
        global_batch: int,
        rank: int,
        world_size: int,
        micro_batch: int,
        lanes: int,
        shuffle_window: int,
        on_bad_sample: Policy = "skip",
        max_bad_fraction: float = 0.01,
        start: int = 0,
        prefetch: int = 4,
        transform: TransformConfig = NO_TRANSFORM,
        loader_workers: int = 0,
    ) -> None:
        """Check that the batches divide; nothing is read yet.

        `prefetch` micro-batches are made in advance by a thread; 0 makes them in the caller's.
        With `loader_workers` of 1 or more, that many processes decode them; the batches are the
        same. Raises InputError where world size, micro-batch or start do not divide the global
        batch, or the images cannot be cropped as `transform` says.
        """
        self.faults = Faults(on_bad_sample, max_bad_fraction)
        self._cut = Cut(global_batch, rank, world_size, micro_batch, start)
        mixture = data if isinstance(data, Mixture) else single(data)
        self._source = Source(mixture, seed, lanes, shuffle_window, transform)
        self._size = self._source.size
        self._depth, self._processes = prefetch, loader_workers
        self._made: Generator[Batch, None, None] | None = None
        self._ahead: Prefetch[Batch] | None = None

    @property
    def bad_samples(self) -> Counter[str]:
        """Bad samples met so far, by defect (a copy)."""
        return Counter(self.faults.counts)

    def epoch_at(self, index: int) -> EpochPlace:
        """Where global sample index `index` stands, which is also what has been seen before it."""
        return self._source.epoch_at(index)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from `start` on; a new loop begins there again."""
        self.close()
        self._made = self._batches()
        if not self._depth:
            return self._made
        self._ahead = Prefetch(self._made, depth=self._depth)
        return iter(self._ahead)

    def close(self) -> None:
        """End the prefetching thread and the loader processes."""
        if self._ahead is not None:
            self._ahead.close()
        if self._made is not None:
            self._made.close()

    def _batches(self) -> Generator[Batch, None, None]:
        info = self._source.mixture.info
        for indices, images, rows in self._decoded():
            yield pinned(batch_of(indices, images, rows, info, self.faults))

    def _decoded(self) -> Iterator[Decoded]:
        if self._processes:
            held = self._depth + _IN_HAND
            yield from loaded(self._source, self._cut, self._processes, held=held)
            return
        filler = self._source.open()
        for indices in self._cut.micro_batches():
            images = np.empty((len(indices), *self._size), np.uint8)
            yield indices, images, filler.fill(images, indices)


def pinned(batch: Batch) -> Batch:
    """The batch with its images in page-locked memory, where there is a CUDA device to copy to.

    Only then does `Tensor.to(device, non_blocking=True)` not wait.
    """
    if not torch.cuda.is_available():
        return batch
    return replace(batch, images=batch.images.pin_memory())


def iterate_once(
    dataset: ShardedDataset,
    *,
    start: int = 0,
    stop: int | None = None,
    batch_size: int,
    on_bad_sample: Policy = "raise",
    max_bad_fraction: float = 0.0,
    transform: TransformConfig = NO_TRANSFORM,
) -> Iterator[Batch]:
    """Samples [start, stop) in manifest order, once; `indices` are places in that order.

    Of `transform` the deterministic part is done: resizing, and the crop at the centre.

    The last batch may be short. Raises InputError for an impossible range, and for bad samples as
    the policy says.
    """
    stop = dataset.info.samples if stop is None else stop
    if not 0 <= start <= stop <= dataset.info.samples or batch_size < 1:
        raise InputError(
            f"cannot read samples [{start}, {stop}) in batches of {batch_size}: "
            f"the dataset has {dataset.info.samples}"
        )
    faults = Faults(on_bad_sample, max_bad_fraction)
    info = dataset.info
    channels, height, width = seen_shape(transform, info.shape)
    samples = _samples(dataset, start, stop)
    for first in range(start, stop, batch_size):
        indices = range(first, min(first + batch_size, stop))
        images = np.empty((len(indices), height, width, channels), np.uint8)
        some = gathered(list(itertools.islice(samples, len(indices))))
        finish = partial(centred, side=transform.crop) if transform.crop else None
        rows = fill(images, some, info, transform, finish)
        yield batch_of(indices, images, rows, info, faults)


def _samples(dataset: ShardedDataset, start: int, stop: int) -> Iterator[Sample]:
    ends = np.cumsum(dataset.block_samples)
    for block in range(len(ends)):
        first = int(ends[block]) - dataset.blocks[block].samples
        if ends[block] > start and first < stop:
            (samples,) = dataset.read_blocks([block])
            for row in range(max(0, start - first), min(stop, int(ends[block])) - first):
                yield samples, row
