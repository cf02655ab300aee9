"""Pictures of a sample set: the first images of each class, in one overview and class by class."""

import math

import numpy as np

from pipeline.data.decode import Pixels, encode_png
from pipeline.plots import image_grid
from pipeline.sampling.sample_set import SampleSet, class_name, rows_by_class

GRID, CLASS_GRIDS = "grid.png", "grids"
_ROWS = 50  # of the overview
_HELD = 4096  # images in memory at a time


def draw_grid(samples: SampleSet, columns: int) -> Pixels:
    """Write `grid.png`: a row for each of the first fifty classes; return its pixels (H,W,3)."""
    found = dict(list(rows_by_class(samples, columns).items())[:_ROWS])
    images = np.full((len(found), columns, *samples.info.shape), 255, np.uint8)
    drawn = iter(samples.images([row for rows in found.values() for row in rows]))
    for line, rows in zip(images, found.values(), strict=True):
        for place in range(len(rows)):
            line[place] = next(drawn)
    names = [class_name(samples, label) for label in found] if samples.info.classes else None
    grid = image_grid(images.reshape(-1, *samples.info.shape), columns, row_names=names)
    (samples.folder / GRID).write_bytes(encode_png(grid.transpose(2, 0, 1)))
    return grid


def draw_class_grids(samples: SampleSet, most: int) -> None:
    """Write `grids/class-<number>.png` for each class: its first `most` images, nearly square."""
    if not most:
        return
    found = list(rows_by_class(samples, most).items())
    step = max(1, _HELD // most)
    for start in range(0, len(found), step):
        group = found[start : start + step]
        images = samples.images([row for _, rows in group for row in rows])
        sizes = np.cumsum([len(rows) for _, rows in group])[:-1]
        for (label, rows), part in zip(group, np.split(images, sizes), strict=True):
            grid = image_grid(part, math.ceil(math.sqrt(len(rows))))
            file = samples.folder / CLASS_GRIDS / f"class-{max(label, 0):03d}.png"
            file.write_bytes(encode_png(grid.transpose(2, 0, 1)))
