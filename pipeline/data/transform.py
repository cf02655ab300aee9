"""Resizing, cropping and flipping, uint8 in and uint8 out.

The random part is drawn by global sample index, so that it changes neither with the batch that a
sample sits in nor with a restart; each epoch, having its own indices, draws anew.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from PIL import Image

from pipeline.config.data import TransformConfig
from pipeline.errors import InputError
from vdm_core.rng import Purpose, uniform

Pixels = NDArray[np.uint8]
Shape = tuple[int, int, int]  # C, H, W

NO_TRANSFORM = TransformConfig()


def decoded_shape(transform: TransformConfig, stored: Shape) -> Shape:
    """Shape (C,H,W) after decoding and resizing."""
    side = transform.resize
    return (stored[0], side, side) if side else stored


def seen_shape(transform: TransformConfig, stored: Shape) -> Shape:
    """Shape (C,H,W) that the model sees. Raises InputError for a crop larger than the image."""
    channels, height, width = decoded_shape(transform, stored)
    side = transform.crop
    if side is None:
        if transform.pad:
            raise InputError("transform.pad needs transform.crop; set it to the image's side")
        return channels, height, width
    if side > min(height, width):
        raise InputError(
            f"transform.crop is {side}, the images are {height} x {width}; "
            "choose a smaller crop or resize first"
        )
    return channels, side, side


def resized(pixels: Pixels, side: int) -> Pixels:
    """The centre square of one image (H,W,C), scaled to (side,side,C): bicubic, antialiased."""
    height, width = pixels.shape[:2]
    edge = min(height, width)
    left, top = (width - edge) / 2, (height - edge) / 2
    picture = Image.fromarray(pixels.squeeze(-1) if pixels.shape[2] == 1 else pixels)
    box = (left, top, left + edge, top + edge)
    scaled = picture.resize((side, side), Image.Resampling.BICUBIC, box=box)
    return np.asarray(scaled).reshape(side, side, -1)


def augmented(
    images: Pixels, transform: TransformConfig, seed: int, indices: Sequence[int]
) -> Pixels:
    """The random part for images (B,H,W,C), keyed by (seed, global sample index)."""
    draws = uniform(seed, Purpose.AUGMENT, torch.tensor(indices), (3,)).numpy()
    if transform.crop:
        pad, side = transform.pad, transform.crop
        padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
        places = np.array(padded.shape[1:3]) - side + 1
        images = _windows(padded, side, (draws[:, :2] * places).astype(np.int64))
    if transform.flip:
        mirrored = draws[:, 2] < 0.5
        images = np.where(mirrored[:, None, None, None], images[:, :, ::-1], images)
    return images


def centred(images: Pixels, side: int) -> Pixels:
    """The centre squares of images (B,H,W,C)."""
    top, left = ((size - side) // 2 for size in images.shape[1:3])
    return images[:, top : top + side, left : left + side]


def _windows(images: Pixels, side: int, corners: NDArray[np.int64]) -> Pixels:
    """From each image (B,H,W,C) the square with its upper left corner at (row, column)."""
    views = sliding_window_view(images, (side, side), axis=(1, 2))  # (B,rows,columns,C,side,side)
    chosen: Pixels = views[np.arange(len(images)), corners[:, 0], corners[:, 1]]
    return chosen.transpose(0, 2, 3, 1)
