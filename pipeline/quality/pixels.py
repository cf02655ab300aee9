"""What the images of a set are like by their pixels: copies, their range, what is at the ends."""

import hashlib
from collections import Counter
from dataclasses import dataclass

import pyarrow as pa
import torch

from pipeline.cluster.kept_ranges import KeptRanges, Range, finish_ranges
from pipeline.config.quality import GateJobConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.stream import iterate_once
from pipeline.storage import Location

_BATCHES_PER_RANGE = 8


@dataclass(frozen=True)
class PixelCounts:
    """How many of the images have a twin, span few levels, or are mostly at the ends."""

    images: int
    duplicates: int  # images beyond the first with the same pixels
    constant: int
    saturated: int


class PixelWorker:
    """A sample set in an actor: ranges of its images to what their pixels are like."""

    def __init__(self, config: GateJobConfig) -> None:
        self.config = config
        self.dataset = open_dataset(config.path(config.samples))

    def __call__(self, items: Range) -> pa.Table:
        """A row an image: `digest` of the pixels, `span` in levels, share of them at the `ends`."""
        digests, spans, ends = [], [], []
        for batch in iterate_once(
            self.dataset, start=items.start, stop=items.stop, batch_size=self.config.batch_size
        ):
            pixels = batch.images.flatten(1)
            digests += [hashlib.sha256(image.numpy().tobytes()).digest() for image in pixels]
            spans.append(pixels.amax(1).int() - pixels.amin(1).int())
            ends.append(((pixels == 0) | (pixels == self.dataset.info.levels - 1)).double().mean(1))
        columns = {"span": torch.cat(spans).numpy(), "ends": torch.cat(ends).numpy()}
        return pa.table({"digest": pa.array(digests, pa.binary(32)), **columns})


def pixel_counts(config: GateJobConfig, work: Location) -> PixelCounts:
    """Look at every image of the set, through the pool; kept in `work`."""
    info = open_dataset(config.path(config.samples)).info
    kept = KeptRanges.of_request(
        work,
        {"pixels": info.manifest_sha256},
        total=info.samples,
        size=config.batch_size * _BATCHES_PER_RANGE,
    )
    finish_ranges(kept, PixelWorker, (config,), config.pool, f"pixels of {config.samples}")
    table = pa.concat_tables(kept.tables())
    copies = Counter(table["digest"].to_pylist())
    return PixelCounts(
        images=table.num_rows,
        duplicates=table.num_rows - len(copies),
        constant=int((table["span"].to_numpy() <= config.gate.span).sum()),
        saturated=int((table["ends"].to_numpy() > config.gate.ends).sum()),
    )
