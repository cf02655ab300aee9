"""One picture of a sharded set: its first images, its classes and how large its files are."""

from __future__ import annotations

from itertools import accumulate

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pipeline.data.dataset import ShardedDataset
from pipeline.prepare.class_grid import SEARCHED, class_grid
from pipeline.report_files import png_bytes

_BLUE = "#2a6fb0"
_MOST_BARS = 100
_READ_TOGETHER = 8  # blocks


def set_picture(dataset: ShardedDataset) -> bytes:
    """PNG: a grid of images beside two histograms, images per class and bytes per image.

    Grid and bytes are those of the first 4,096 samples; classes are counted in the whole set.
    """
    info = dataset.info
    figure = Figure(figsize=(15, 7.5), layout="constrained")
    cells = figure.add_gridspec(2, 2, width_ratios=(3, 2))
    grid = figure.add_subplot(cells[:, 0])
    grid.imshow(class_grid(dataset), interpolation="nearest")
    grid.axis("off")
    if info.classes:
        _class_bars(figure.add_subplot(cells[0, 1]), dataset.label_counts, info.class_names)
    _bytes_histogram(figure.add_subplot(cells[1, 1]), encoded_sizes(dataset))
    figure.suptitle(
        f"{info.split}: {info.samples:,} images {info.shape} (C,H,W), "
        f"mean {_short(info.mean)}, standard deviation {_short(info.std)} of pixel / 255"
    )
    return png_bytes(figure, dpi=100)


def encoded_sizes(dataset: ShardedDataset) -> list[int]:
    """Bytes of the encoded images among the first 4,096 samples, as far as blocks go."""
    ends = list(accumulate(dataset.block_samples.tolist()))
    blocks = [block for block, end in enumerate(ends) if end <= SEARCHED] or [0]
    sizes = []
    for first in range(0, len(blocks), _READ_TOGETHER):
        for samples in dataset.read_blocks(blocks[first : first + _READ_TOGETHER]):
            sizes += [len(picture) for picture in samples.pictures if isinstance(picture, bytes)]
    return sizes


def _class_bars(panel: Axes, counts: tuple[int, ...], names: tuple[str, ...]) -> None:
    panel.barh(range(len(counts)), counts, color=_BLUE)
    panel.invert_yaxis()
    if len(counts) <= _MOST_BARS // 2:
        panel.set_yticks(range(len(names)), names, fontsize=8)
    panel.set_title("Images per class", loc="left", fontsize=11)
    panel.set_xlabel("images")


def _bytes_histogram(panel: Axes, sizes: list[int]) -> None:
    panel.hist(sizes, bins=min(_MOST_BARS, max(1, len(set(sizes)))), color=_BLUE)
    panel.set_title(f"Encoded size of {len(sizes):,} images", loc="left", fontsize=11)
    panel.set_xlabel("bytes")
    panel.set_ylabel("images")


def _short(values: tuple[float, ...] | None) -> str:
    return ", ".join(f"{value:.3f}" for value in values or ())
