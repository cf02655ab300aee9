"""The lanes of a training sequence, read window by window."""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from pipeline.data.dataset import ShardedDataset
from pipeline.data.encoded import Encoded, Sample
from pipeline.data.order import Integers, SampleOrder, Window


class LaneReader:
    """Encoded samples of one set by index. Keeps as many windows as lanes; a jump reads anew.

    The windows are kept by index mod lanes. Within an epoch that is the lane, up to a shift; and
    a reader that is only asked for some of the residues never keeps more windows than those.
    """

    def __init__(self, dataset: ShardedDataset, order: SampleOrder) -> None:
        """Nothing is read yet."""
        self._order = order
        self._lanes = defaultdict[int, _Lane](lambda: _Lane(dataset, order))

    def samples(self, indices: Integers) -> list[Sample]:
        """The samples of `indices` (n,): each a block of the lane's window, and a row of it."""
        parts = (indices % self._order.lanes, *self._order.slots(indices))
        return [
            self._lanes[residue].sample((epoch, lane, window), row)
            for residue, epoch, lane, window, row in zip(*(p.tolist() for p in parts), strict=True)
        ]


class _Lane:
    """The blocks of one lane's current window, and the order in which it serves their samples."""

    def __init__(self, dataset: ShardedDataset, order: SampleOrder) -> None:
        self._dataset, self._order = dataset, order
        self._at = (-1, -1, -1)
        self._blocks: dict[int, Encoded] = {}
        self._served: list[Sample] = []

    def sample(self, at: tuple[int, int, int], row: int) -> Sample:
        """What `row` of window `at` serves; reads the window's blocks when a new one begins."""
        if self._at != at:
            window = self._order.window(*at)
            self._blocks = self._read(window)
            pairs = zip(window.blocks.tolist(), window.rows.tolist(), strict=True)
            self._served = [(self._blocks[block], row) for block, row in pairs]
            self._at = at
        return self._served[row]

    def _read(self, window: Window) -> dict[int, Encoded]:
        """The blocks of `window`; the one that the last window shares with it is kept."""
        needed: list[int] = np.unique(window.blocks).tolist()
        missing = [block for block in needed if block not in self._blocks]
        read = dict(zip(missing, self._dataset.read_blocks(missing), strict=True))
        return {block: read.get(block) or self._blocks[block] for block in needed}
