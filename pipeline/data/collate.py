"""Encoded samples to a `Batch`; a bad one leaves a hole and is reported."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    decode_label,
    image_field,
)
from pipeline.data.decode_fast import decode_fast
from pipeline.data.faults import Faults
from pipeline.data.manifest import DatasetInfo
from pipeline.data.tar_fast import Record
from pipeline.data.transform import decoded_shape, resized
from vdm_core.records import Batch

Pixels = NDArray[np.uint8]
Entry = Record | SampleError
Finish = Callable[[Pixels], Pixels]  # (B,H,W,C) -> (B,h,w,C): what follows decoding


class Rows(NamedTuple):
    """A batch without its pixels."""

    labels: NDArray[np.int64]  # (B,), -1 where there is none
    valid: NDArray[np.bool_]  # (B,)
    keys: tuple[str, ...]
    errors: tuple[tuple[int, SampleError], ...]  # (row, what was wrong), by row


def fill(
    images: Pixels,
    entries: Sequence[Entry],
    info: DatasetInfo,
    transform: TransformConfig,
    finish: Finish | None = None,
) -> Rows:
    """Decode `entries` into `images` (B,h,w,C); a bad one is zeros, label -1, valid False.

    `finish` takes the images from their decoded size to that of `images`; None: they are the same.
    """
    channels, height, width = decoded_shape(transform, info.shape)
    pixels = np.empty((len(entries), height, width, channels), np.uint8) if finish else images
    labels = np.full(len(entries), -1, dtype=np.int64)
    valid = np.ones(len(entries), dtype=np.bool_)
    errors = []
    for i, entry in enumerate(entries):
        try:
            record = _good(entry)
            label = decode_label(record.fields, info.classes) if info.classes else -1
            _decode(image_field(record.fields)[1], info.shape, transform.resize, pixels[i])
            labels[i] = label
        except SampleError as error:
            errors.append((i, error if error.place else error.at(entry.place)))
    if finish:
        images[:] = finish(pixels)
    for i, _ in errors:
        valid[i], images[i] = False, 0
    return Rows(labels, valid, tuple([entry.place for entry in entries]), tuple(errors))


def batch_of(
    indices: Sequence[int], images: Pixels, rows: Rows, info: DatasetInfo, faults: Faults
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
        indices=torch.tensor(indices, dtype=torch.int64),
        valid=torch.from_numpy(rows.valid),
        keys=rows.keys,
    )


def _good(entry: Entry) -> Record:
    if isinstance(entry, SampleError):
        raise entry
    return entry


def _decode(data: bytes, stored: Shape, resize: int | None, out: Pixels) -> None:
    """Pixels of one picture into `out` (H,W,C), scaled if that is wanted."""
    if resize is None:
        if decode_fast(data, out) is None:
            out[:] = decode_image(data, stored).transpose(1, 2, 0)
        return
    pixels = decode_fast(data)
    if pixels is None:
        pixels = decode_image(data).transpose(1, 2, 0)
    out[:] = resized(check_channels(pixels, stored[0]), resize)
