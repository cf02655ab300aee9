"""Shards to batches: the training sequence of one worker, and one pass in manifest order.

A stream's whole state is the next global sample index: it can be opened anywhere, by any number of
workers, and gives the same samples.
"""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np

from pipeline.data.collate import Entry, collate
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.faults import Faults, Policy
from pipeline.data.order import SampleOrder, Slot, Window, worker_indices
from pipeline.data.prefetch import Prefetch
from pipeline.errors import InputError
from vdm_core.records import Batch

__all__ = ["ShardedDataset", "TrainingStream", "iterate_once", "open_dataset"]


class TrainingStream:
    """The endless micro-batches of worker `rank` of `world_size`, from sample index `start`.

    Each step has (global_batch / world_size) / micro_batch of them. `faults` counts and describes
    the samples that left holes; it may be ahead of the consumer by what is prefetched.
    """

    def __init__(
        self,
        dataset: ShardedDataset,
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
    ) -> None:
        """Check that the batches divide; nothing is read yet.

        `prefetch` micro-batches are made in advance by a thread; 0 makes them in the caller's.
        Raises InputError where world size, micro-batch or start do not divide the global batch.
        """
        _check_batches(global_batch, rank, world_size, micro_batch, start)
        self.faults = Faults(on_bad_sample, max_bad_fraction)
        self._dataset = dataset
        self._order = SampleOrder(
            dataset.block_samples, seed=seed, lanes=lanes, shuffle_window=shuffle_window
        )
        self._global_batch, self._rank, self._world_size = global_batch, rank, world_size
        self._micro_batch, self._start = micro_batch, start
        self._depth = prefetch
        self._ahead: Prefetch[Batch] | None = None

    @property
    def bad_samples(self) -> Counter[str]:
        """Bad samples met so far, by defect (a copy)."""
        return Counter(self.faults.counts)

    def __iter__(self) -> Iterator[Batch]:
        """The batches from `start` on; a new loop begins there again."""
        self.close()
        if not self._depth:
            return self._batches()
        self._ahead = Prefetch(self._batches(), depth=self._depth)
        return iter(self._ahead)

    def close(self) -> None:
        """End the prefetching thread."""
        if self._ahead is not None:
            self._ahead.close()

    def _batches(self) -> Iterator[Batch]:
        lanes = defaultdict[int, _Lane](lambda: _Lane(self._dataset, self._order))
        for number in itertools.count(self._start // self._global_batch):
            own = worker_indices(
                number,
                global_batch=self._global_batch,
                rank=self._rank,
                world_size=self._world_size,
            )
            for i in range(0, len(own), self._micro_batch):
                indices = own[i : i + self._micro_batch]
                entries = [lanes[slot.lane].entry(slot) for slot in map(self._order.slot, indices)]
                yield collate(indices, entries, self._dataset.info, self.faults)


class _Lane:
    """The encoded samples of one lane's current window."""

    def __init__(self, dataset: ShardedDataset, order: SampleOrder) -> None:
        self._dataset, self._order = dataset, order
        self._at: tuple[int, ...] = ()
        self._window = Window(np.empty(0, np.int64), np.empty(0, np.int64))
        self._blocks: dict[int, list[Entry]] = {}

    def entry(self, slot: Slot) -> Entry:
        """The sample at `slot`; reads the window's blocks when a new window begins."""
        if self._at != slot[:3]:
            self._window = self._order.window(*slot[:3])
            self._blocks = self._read(self._window)
            self._at = slot[:3]
        block, row = self._window.blocks[slot.row], self._window.rows[slot.row]
        return self._blocks[int(block)][int(row)]

    def _read(self, window: Window) -> dict[int, list[Entry]]:
        """The blocks of `window`; the one that the last window shares with it is kept."""
        needed: list[int] = np.unique(window.blocks).tolist()
        missing = [block for block in needed if block not in self._blocks]
        read = dict(zip(missing, self._dataset.read_blocks(missing), strict=True))
        return {block: read.get(block) or self._blocks[block] for block in needed}


def iterate_once(
    dataset: ShardedDataset,
    *,
    start: int = 0,
    stop: int | None = None,
    batch_size: int,
    on_bad_sample: Policy = "raise",
    max_bad_fraction: float = 0.0,
) -> Iterator[Batch]:
    """Samples [start, stop) in manifest order, once; `indices` are places in that order.

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
    entries = _entries(dataset, start, stop)
    for first in range(start, stop, batch_size):
        indices = range(first, min(first + batch_size, stop))
        yield collate(indices, list(itertools.islice(entries, len(indices))), dataset.info, faults)


def _entries(dataset: ShardedDataset, start: int, stop: int) -> Iterator[Entry]:
    ends = np.cumsum(dataset.block_samples)
    for block in range(len(ends)):
        first = int(ends[block]) - dataset.blocks[block].block.samples
        if ends[block] > start and first < stop:
            (entries,) = dataset.read_blocks([block])
            yield from entries[max(0, start - first) : stop - first]


def _check_batches(
    global_batch: int, rank: int, world_size: int, micro_batch: int, start: int
) -> None:
    if world_size < 1 or not 0 <= rank < world_size:
        raise InputError(f"rank {rank} is not one of {world_size} workers")
    if global_batch < 1 or global_batch % world_size:
        raise InputError(
            f"global batch {global_batch} does not divide among {world_size} workers; "
            "choose a multiple"
        )
    if micro_batch < 1 or (global_batch // world_size) % micro_batch:
        raise InputError(
            f"a worker's batch of {global_batch // world_size} does not divide into micro-batches "
            f"of {micro_batch}; choose a divisor"
        )
    if start < 0 or start % global_batch:
        raise InputError(f"start {start} is not a multiple of the global batch {global_batch}")
