"""Which sample comes when: integers in, integers out, no input or output.

The training sequence is a pure function of (seed, block sizes, lanes, window). Sample index g lies
in epoch g // N at place p = g % N. In each epoch the blocks are permuted; the resulting row of N
samples is cut into `lanes` contiguous ranges whose lengths differ by at most one; place p is served
by lane p mod lanes, as that lane's sample number p // lanes; and inside a lane the samples are
permuted within consecutive windows of `shuffle_window`. Neither workers nor batch sizes enter, so
they cannot change the sequence.

Each permutation sorts the raw 64-bit outputs of Philox4x64-10 (Salmon et al. 2011) at a counter of
its own. That integer stream is fixed by its definition, unlike NumPy's own shuffles, and is part of
the format: a change of it would break the resumption of running trainings.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[np.int64]

_BLOCKS, _WINDOW = 1, 2


class Slot(NamedTuple):
    """Where a global sample index is served from."""

    epoch: int
    lane: int
    window: int
    row: int  # place within the window


class Window(NamedTuple):
    """The samples of one window in the order in which they are served."""

    blocks: Integers  # (n,) block index of each sample, in manifest order
    rows: Integers  # (n,) sample index within that block


def random_words(n: int, seed: int, *address: int, stream: int = 0) -> NDArray[np.uint64]:
    """Philox4x64-10 outputs (n,) for (seed, stream) and at most three address words."""
    counter = np.array([0, *address, *[0] * (3 - len(address))], dtype=np.uint64)
    key = np.array([seed, stream], dtype=np.uint64)
    return np.random.Philox(key=key, counter=counter).random_raw(n)


def permutation(n: int, seed: int, *address: int, stream: int = 0) -> Integers:
    """A permutation of 0 … n-1 that depends on (seed, stream, address) alone.

    Stable sort of `random_words`: equal ones (2^-64 a pair) keep their order.
    """
    return np.argsort(random_words(n, seed, *address, stream=stream), kind="stable")


class SampleOrder:
    """The endless, seekable training sequence over blocks of the given sizes.

    Windows of lane l begin l·window/lanes samples early, so that the lanes' reads are spread
    evenly over time instead of falling together.
    """

    def __init__(
        self,
        block_samples: Integers,
        *,
        seed: int,
        lanes: int,
        shuffle_window: int,
        stream: int = 0,
    ) -> None:
        """Order the samples of blocks with the given sizes, (blocks,) int64.

        Sets that are mixed have a `stream` each, so that their orders are independent.

        Raises ValueError for no samples, lanes < 1, window < 1 or a seed outside 64 bits.
        """
        self.samples = int(block_samples.sum())
        if self.samples < 1 or lanes < 1 or shuffle_window < 1 or not 0 <= seed < 2**64:
            raise ValueError(
                f"need samples, lanes and window of 1 or more and a seed in [0, 2^64), got "
                f"{self.samples}, {lanes}, {shuffle_window}, {seed}"
            )
        self.seed, self.lanes, self.shuffle_window = seed, lanes, shuffle_window
        self._stream = stream
        self._block_samples = block_samples
        self._epoch = -1
        self._blocks = self._ends = np.empty(0, np.int64)

    def slots(self, indices: Integers) -> tuple[Integers, Integers, Integers, Integers]:
        """Epoch, lane, window and row, (n,) each, of global sample indices (n,) int64."""
        epoch, place = np.divmod(indices, self.samples)
        position, lane = np.divmod(place, self.lanes)
        lead = lane * self.shuffle_window // self.lanes
        window = (position + lead) // self.shuffle_window
        return epoch, lane, window, position - np.maximum(0, window * self.shuffle_window - lead)

    def slot(self, index: int) -> Slot:
        """Epoch, lane, window and row of one global sample index."""
        return Slot(*(int(part[0]) for part in self.slots(np.array([index], np.int64))))

    def window(self, epoch: int, lane: int, window: int) -> Window:
        """The samples of one window, in the order served."""
        self._enter(epoch)
        short, longer = divmod(self.samples, self.lanes)
        begin, end = self._begin(lane, window), self._begin(lane, window + 1)
        end = min(end, short + (lane < longer))
        address = (window, lane, epoch << 8 | _WINDOW)
        first = lane * short + min(lane, longer) + begin
        places = first + permutation(end - begin, self.seed, *address, stream=self._stream)
        ranks = np.searchsorted(self._ends, places, side="right")
        blocks = self._blocks[ranks]
        return Window(blocks, places - self._ends[ranks] + self._block_samples[blocks])

    def _begin(self, lane: int, window: int) -> int:
        lead = lane * self.shuffle_window // self.lanes
        return max(0, window * self.shuffle_window - lead)

    def _enter(self, epoch: int) -> None:
        """Permute the blocks for `epoch`, unless that is done."""
        if epoch != self._epoch:
            count = len(self._block_samples)
            address = (0, 0, epoch << 8 | _BLOCKS)
            self._blocks = permutation(count, self.seed, *address, stream=self._stream)
            self._ends = np.cumsum(self._block_samples[self._blocks])
            self._epoch = epoch


def worker_indices(batch: int, *, global_batch: int, rank: int, world_size: int) -> range:
    """Global sample indices that worker `rank` takes of global batch number `batch`.

    Those congruent to `rank` modulo `world_size`; where the number of lanes is a multiple of
    `world_size`, a worker therefore reads only its own lanes within an epoch.
    """
    first = batch * global_batch
    return range(first + rank, first + global_batch, world_size)


def reads_per_sample(
    workers: int, *, lanes: int, shuffle_window: int, processes: int = 1, micro_batch: int = 1
) -> int:
    """How often a sample is read from the storage in an epoch, all workers together.

    Once where the workers divide the lanes. Else a lane is shared by workers / gcd(workers, lanes)
    of them, and each reads a whole window for its part of it, however small. So does each of a
    worker's loader `processes` that a lane comes to: one, where they divide both the micro-batch
    and the worker's lanes. Rows of micro-batches that are equal modulo `together` share a lane.
    """
    shared = math.gcd(workers, lanes)
    together = math.gcd(micro_batch, lanes // shared)
    readers = min(micro_batch // together, processes // math.gcd(processes, together))
    return min(shuffle_window, workers // shared * readers)
