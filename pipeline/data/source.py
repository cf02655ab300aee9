"""Global sample indices to decoded rows: what a thread or a loader process does over and over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import NamedTuple

import numpy as np

from pipeline.config.data import TransformConfig
from pipeline.data.collate import Pixels, Rows, fill
from pipeline.data.encoded import Encoded, Sample, gathered
from pipeline.data.lanes import LaneReader
from pipeline.data.mixing import Mixing
from pipeline.data.mixture import Mixture
from pipeline.data.order import SampleOrder, worker_indices
from pipeline.data.transform import augmented, seen_shape
from pipeline.errors import InputError

Decoded = tuple[range, Pixels, Rows]  # indices, images (B,H,W,C), and the rest of a micro-batch


@dataclass(frozen=True)
class Cut:
    """How one worker's share of the training sequence is cut into micro-batches."""

    global_batch: int
    rank: int
    world_size: int
    micro_batch: int
    start: int  # the first global sample index

    def __post_init__(self) -> None:
        """Raise InputError where one does not divide the other."""
        if self.world_size < 1 or not 0 <= self.rank < self.world_size:
            raise InputError(f"rank {self.rank} is not one of {self.world_size} workers")
        if self.global_batch < 1 or self.global_batch % self.world_size:
            raise InputError(
                f"global batch {self.global_batch} does not divide among {self.world_size} "
                "workers; choose a multiple"
            )
        own = self.global_batch // self.world_size
        if self.micro_batch < 1 or own % self.micro_batch:
            raise InputError(
                f"a worker's batch of {own} does not divide into micro-batches of "
                f"{self.micro_batch}; choose a divisor"
            )
        if self.start < 0 or self.start % self.global_batch:
            raise InputError(
                f"start {self.start} is not a multiple of the global batch {self.global_batch}"
            )

    def micro_batches(self) -> Iterator[range]:
        """The global sample indices of each micro-batch, endless."""
        for number in count(self.start // self.global_batch):
            own = worker_indices(
                number,
                global_batch=self.global_batch,
                rank=self.rank,
                world_size=self.world_size,
            )
            for i in range(0, len(own), self.micro_batch):
                yield own[i : i + self.micro_batch]


class EpochPlace(NamedTuple):
    """A place in the training sequence of one set, counted in passes over the data."""

    epoch: int  # whole passes before it
    seen: int  # samples of the current pass before it
    samples: int  # of a pass

    @property
    def epochs(self) -> float:
        """Passes, with the fraction of the current one."""
        return self.epoch + self.seen / self.samples


@dataclass(frozen=True)
class Source:
    """The sets, their order and what is done to their images; picklable."""

    mixture: Mixture
    seed: int
    lanes: int
    shuffle_window: int
    transform: TransformConfig

    @property
    def size(self) -> tuple[int, int, int]:
        """H, W, C of the images that come out."""
        channels, height, width = seen_shape(self.transform, self.mixture.info.shape)
        return height, width, channels

    def mixing(self) -> Mixing:
        """Which set serves which place."""
        weights = [component.weight for component in self.mixture.components]
        return Mixing(weights, seed=self.seed, lanes=self.lanes)

    def epoch_at(self, index: int) -> EpochPlace:
        """What has been seen before global sample index `index`.

        Of several sets, that one's which has been passed the least often.
        """
        sizes = [component.dataset.info.samples for component in self.mixture.components]
        served = self.mixing().served(index).tolist()
        places = [EpochPlace(s // n, s % n, n) for s, n in zip(served, sizes, strict=True)]
        return min(places, key=lambda place: place.epochs)

    def open(self) -> Filler:
        """A reader of its own, with nothing read yet."""
        return Filler(self)


class Filler:
    """Fills images in; keeps the windows of the lanes that it has been asked for.

    Each set has its share of `shuffle_window`, rounded up: mixing costs no memory.
    """

    def __init__(self, source: Source) -> None:
        """Raise ValueError for an impossible order."""
        self._source, self._mixing = source, source.mixing()
        windows = -(-source.shuffle_window * self._mixing.shares // self._mixing.rows)
        self._readers = [
            LaneReader(
                component.dataset,
                SampleOrder(
                    component.dataset.block_samples,
                    seed=source.seed,
                    lanes=source.lanes,
                    shuffle_window=window,
                    stream=number,
                ),
            )
            for number, (component, window) in enumerate(
                zip(source.mixture.components, windows.tolist(), strict=True)
            )
        ]

    def fill(self, images: Pixels, indices: range) -> Rows:
        """Write the samples of `indices` into `images` (n,H,W,C) and return the rest of them."""
        source, transform = self._source, self._source.transform
        finish = None
        if transform.crop or transform.flip:
            finish = partial(augmented, transform=transform, seed=source.seed, indices=indices)
        return fill(images, self._samples(indices), source.mixture.info, transform, finish)

    def _samples(self, indices: range) -> Encoded:
        sets, places = self._mixing.places(np.array(indices, dtype=np.int64))
        if len(self._readers) == 1:
            return gathered(self._readers[0].samples(places))
        found: dict[int, Sample] = {}
        for number in np.unique(sets).tolist():
            rows = np.flatnonzero(sets == number)
            samples = self._readers[number].samples(places[rows])
            found.update(zip(rows.tolist(), samples, strict=True))
        return gathered([found[row] for row in range(len(indices))])
