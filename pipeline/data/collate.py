"""Encoded samples to a `Batch`; a bad one leaves a hole and is reported."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from pipeline.config.data import TransformConfig
from pipeline.data.decode import (
    SampleError,
    Shape,
    check_channels,
    decode_image,
)
from pipeline.data.decode_fast import decode_fast
from pipeline.data.encoded import Encoded
from pipeline.data.faults import Faults
from pipeline.data.manifest import DatasetInfo
from pipeline.data.transform import decoded_shape, resized
from vdm_core.records import Batch

Pixels = NDArray[np.uint8]
Finish = Callable[[Pixels], Pixels]  # (B,H,W,C) -> (B,h,w,C): what follows decoding


class Rows(NamedTuple):
    """A batch without its pixels."""

    labels: NDArray[np.int64]  # (B,), -1 where there is none
    valid: NDArray[np.bool_]  # (B,)
    keys: tuple[str, ...]
    errors: tuple[tuple[int, SampleError], ...]  # (row, what was wrong), by row


def fill(
    images: Pixels,
    samples: Encoded,
    info: DatasetInfo,
    transform: TransformConfig,
    finish: Finish | None = None,
) -> Rows:
    """Decode `samples` into `images` (B,h,w,C); a bad one is zeros, label -1, valid False.

    `finish` takes the images from their decoded size to that of `images`; None: they are the same.
    """
    channels, height, width = decoded_shape(transform, info.shape)
    pixels = np.empty((len(images), height, width, channels), np.uint8) if finish else images
    errors = []
    for i, (picture, out) in enumerate(zip(samples.pictures, pixels, strict=True)):
        try:
            _decode(picture, info.shape, transform.resize, out)
        except SampleError as error:
            errors.append((i, error if error.place else error.at(samples.places[i])))
    if finish:
        images[:] = finish(pixels)
    labels = np.array(samples.labels, dtype=np.int64)
    valid = np.ones(len(images), dtype=np.bool_)
    for i, _ in errors:
        labels[i], valid[i], images[i] = -1, False, 0
    return Rows(labels, valid, tuple(samples.places), tuple(errors))


def batch_of(
    indices: range, images: Pixels, rows: Rows, info: DatasetInfo, faults: Faults
) -> Batch:
    """The Batch of decoded rows and images (B,H,W,C), which keep their memory.

    Raises InputError as `faults` decides about the bad ones.
    """
    before = faults.read
    for row, error in rows.errors:
        faults.read = before + row + 1
        faults.add(error)
    faults.read = before + len(indices)
    return Batch(
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        labels=torch.from_numpy(rows.labels) if info.classes else None,
        indices=torch.arange(indices.start, indices.stop, indices.step),
        valid=torch.from_numpy(rows.valid),
        keys=rows.keys,
    )


def _decode(picture: bytes | SampleError, stored: Shape, resize: int | None, out: Pixels) -> None:
    """Pixels of one picture into `out` (H,W,C), scaled if that is wanted."""
    if isinstance(picture, SampleError):
        raise picture
    if resize is None:
        if decode_fast(picture, out) is None:
            out[:] = decode_image(picture, stored).transpose(1, 2, 0)
        return
    pixels = decode_fast(picture)
    if pixels is None:
        pixels = decode_image(picture).transpose(1, 2, 0)
    out[:] = resized(check_channels(pixels, stored[0]), resize)
