"""Encoded samples to a `Batch`; a bad one leaves a hole and is reported."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from pipeline.data.decode import SampleError, decode_image, decode_label, image_field
from pipeline.data.faults import Faults
from pipeline.data.manifest import DatasetInfo
from pipeline.data.tar_reader import Record
from vdm_core.records import Batch

Entry = Record | SampleError


def collate(
    indices: Sequence[int], entries: Sequence[Entry], info: DatasetInfo, faults: Faults
) -> Batch:
    """Decode `entries` (one for each of `indices`) into one Batch.

    Raises InputError as `faults` decides; otherwise a bad entry is zeros, label -1, valid False.
    """
    images = np.zeros((len(entries), *info.shape), dtype=np.uint8)
    labels = np.full(len(entries), -1, dtype=np.int64)
    valid = np.zeros(len(entries), dtype=np.bool_)
    for i, entry in enumerate(entries):
        faults.read += 1
        try:
            record = _good(entry)
            label = _label(record, info)
            images[i] = _pixels(record, info)
            labels[i], valid[i] = label, True
        except SampleError as error:
            faults.add(error if error.place else error.at(entry.place))
    return Batch(
        images=torch.from_numpy(images),
        labels=torch.from_numpy(labels) if info.classes else None,
        indices=torch.tensor(list(indices), dtype=torch.int64),
        valid=torch.from_numpy(valid),
        keys=tuple(entry.place for entry in entries),
    )


def _good(entry: Entry) -> Record:
    if isinstance(entry, SampleError):
        raise entry
    return entry


def _pixels(record: Record, info: DatasetInfo) -> np.ndarray:
    return decode_image(image_field(record.fields)[1], info.shape)


def _label(record: Record, info: DatasetInfo) -> int:
    return decode_label(record.fields, info.classes) if info.classes else -1
