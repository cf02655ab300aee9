"""The nearest other image of each image, by pixels: copies of training images, and of each other.

Candidates are found in float32 by products, a range of queries at a time against the whole set; the
distance of the one found is then counted in integers, so that a copy is at 0.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.cluster.kept_ranges import KeptRanges, Range, finish_ranges
from pipeline.config.features import ImagesConfig
from pipeline.config.quality import GateJobConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.select import selected, thinned
from pipeline.data.stream import iterate_once
from pipeline.data.transform import seen_shape
from pipeline.storage import Location

_QUERIES, _VALUES = 1000, 2**26  # of a range, at most: the whole set is read once for each
_EXACT = 64  # rows whose integers are in memory at once


@dataclass(frozen=True)
class Neighbours:
    """Of N images: their places in their set, the nearest's place in the other, how far it is."""

    places: NDArray[np.int64]
    nearest: NDArray[np.int64]
    distance: NDArray[np.float64]  # root mean square over the pixels, in levels


def open_images(config: GateJobConfig, images: ImagesConfig) -> ShardedDataset:
    """The set, or the selected part of it. Raises InputError where there is none."""
    return selected(open_dataset(config.path(images.path)), images.select)


class NearestWorker:
    """Queries and the set that is searched, in an actor. Within one set, no image is its own."""

    def __init__(self, config: GateJobConfig, queries: ImagesConfig, among: ImagesConfig) -> None:
        self.config, self.images, self.among_images = config, queries, among
        self.device = torch.device("cuda" if config.pool.gpus_per_actor > 0 else "cpu")
        whole = open_images(config, queries)
        self.queries, self.places = thinned(whole, config.gate.neighbour_images)
        self.among = open_images(config, among)
        self.same = _same(queries, whole, among, self.among)

    def __call__(self, items: Range) -> pa.Table:
        """A row a query: `place`, `nearest` and the `squared` distance, an integer."""
        pixels = torch.cat([batch for _, batch in self._batches(self.queries, self.images, items)])
        places = torch.from_numpy(self.places[items.start : items.stop]).to(self.device)
        flat = pixels.float()
        lengths = flat.square().sum(1, keepdim=True)
        best = torch.full((len(flat),), torch.inf, device=self.device)
        nearest = torch.full((len(flat),), -1, device=self.device)
        found = torch.zeros_like(pixels)
        everything = Range(0, self.among.info.samples)
        for first, others in self._batches(self.among, self.among_images, everything):
            rows = others.float()
            squared = lengths + rows.square().sum(1) - 2 * flat @ rows.T
            if self.same:
                own = places[:, None] == first + torch.arange(len(rows), device=self.device)
                squared[own] = torch.inf
            least, column = squared.min(1)
            better = least < best
            best, nearest[better] = torch.minimum(best, least), first + column[better]
            found[better] = others[column[better]]
        columns = {"place": places, "nearest": nearest, "squared": _squared(pixels, found)}
        return pa.table({name: values.cpu().numpy() for name, values in columns.items()})

    def _batches(
        self, dataset: ShardedDataset, images: ImagesConfig, items: Range
    ) -> Iterator[tuple[int, Tensor]]:
        """First place and pixels (B,D) uint8 of each batch, on the device."""
        for batch in iterate_once(
            dataset,
            start=items.start,
            stop=items.stop,
            batch_size=self.config.batch_size,
            transform=images.transform,
        ):
            yield int(batch.indices[0]), batch.images.to(self.device).flatten(1)


def _squared(one: Tensor, other: Tensor) -> Tensor:
    """Exact squared distances (B,) between rows of uint8 (B,D), a few rows at a time."""
    starts = range(0, len(one), _EXACT)
    return torch.cat(
        [(one[k : k + _EXACT].int() - other[k : k + _EXACT].int()).square().sum(1) for k in starts]
    )


def nearest_neighbours(
    config: GateJobConfig, queries: ImagesConfig, among: ImagesConfig, work: Location
) -> Neighbours:
    """Of at most `neighbour_images` of the queries, through the pool; kept in `work`.

    In a search within one set, an image is not its own neighbour.
    """
    asked, searched = open_images(config, queries), open_images(config, among)
    count = min(config.gate.neighbour_images, asked.info.samples)
    request = {
        "queries": asked.info.manifest_sha256,
        "how": queries.model_dump_json(exclude={"path"}),
        "count": count,
        "among": searched.info.manifest_sha256,
        "how_among": among.model_dump_json(exclude={"path"}),
        "same": _same(queries, asked, among, searched),
    }
    dims = math.prod(seen_shape(queries.transform, asked.info.shape))
    size = max(1, min(_QUERIES, _VALUES // dims))
    kept = KeptRanges.of_request(work, request, total=count, size=size)
    what = f"neighbours of {queries.path} in {among.path}"
    finish_ranges(kept, NearestWorker, (config, queries, among), config.pool, what)
    table = pa.concat_tables(kept.tables())
    return Neighbours(
        table["place"].to_numpy(),
        table["nearest"].to_numpy(),
        np.sqrt(table["squared"].to_numpy() / dims),
    )


def _same(
    queries: ImagesConfig, asked: ShardedDataset, among: ImagesConfig, searched: ShardedDataset
) -> bool:
    """Whether both are the same images in the same order, wherever they lie."""
    same_set = asked.info.manifest_sha256 == searched.info.manifest_sha256
    return same_set and (queries.select, queries.transform) == (among.select, among.transform)
