"""A picture of a sharded set: its first images, one class a row."""

import numpy as np
from numpy.typing import NDArray

from pipeline.data.dataset import ShardedDataset
from pipeline.data.stream import iterate_once
from pipeline.plots import image_grid

SEARCHED = 4096


def class_grid(dataset: ShardedDataset, *, rows: int = 10, columns: int = 10) -> NDArray[np.uint8]:
    """The pixels (H,W,3) of up to `columns` images of each of the first `rows` classes.

    They come from the first 4,096 samples, read back from the shards; missing ones are white.
    """
    found: dict[int, list[NDArray[np.uint8]]] = {}
    stop = min(SEARCHED, dataset.info.samples)
    for batch in iterate_once(
        dataset, stop=stop, batch_size=256, on_bad_sample="skip", max_bad_fraction=1.0
    ):
        labels = batch.labels.tolist() if batch.labels is not None else [0] * len(batch.keys)
        for image, label, valid in zip(batch.images, labels, batch.valid.tolist(), strict=True):
            if valid and len(found.setdefault(label, [])) < columns:
                found[label].append(image.numpy())
    shown = sorted(found)[:rows]
    blank = np.full(dataset.info.shape, 255, np.uint8)
    images = [(found[label] + [blank] * columns)[:columns] for label in shown]
    names = [dataset.info.class_names[label] for label in shown] if dataset.info.classes else None
    return image_grid(np.stack([i for row in images for i in row]), columns, row_names=names)
