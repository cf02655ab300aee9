"""A finished sample set, opened to be read: its description, its manifest, and its images.

    samples = open_sample_set("runs/x/samples")
    samples.info.provenance["nfe"], samples.manifest(["id", "class"])
    for batch in samples.batches(256): ...      # a `Batch`; row i of the manifest is index i
    samples.images([5, 17])                     # of these rows of the manifest alone

Tars can also be streamed by `pipeline.data.stream`, as any sharded dataset, and read by webdataset.
"""

import hashlib
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pipeline.data.dataset import open_dataset
from pipeline.data.decode import Pixels, SampleError, decode_image
from pipeline.data.manifest import DatasetInfo, ShardRow, read_info, read_manifest
from pipeline.data.tar_fast import plain_samples
from pipeline.errors import InputError
from pipeline.sampling.finish import SAMPLES
from pipeline.storage import Location, open_storage
from vdm_core.labels import NO_LABEL
from vdm_core.records import Batch

_PARALLEL_READS = 16
_GAP_BYTES = 2**18  # samples that lie closer are fetched together, with what is between


class _Wanted(NamedTuple):
    """Where a sample lies, and its place in the answer."""

    place: int
    shard: str
    offset: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class SampleSet:
    """A sample set on storage; nothing is held but what was asked for."""

    folder: Location
    info: DatasetInfo
    shards: tuple[ShardRow, ...]

    def __len__(self) -> int:
        """Samples in all."""
        return self.info.samples

    def manifest(self, columns: Sequence[str] | None = None) -> pa.Table:
        """A row for each sample: id, class (-1 for none), seed, guidance_scale, shard, offset,
        bytes and the pixels' sha256; or some of these columns."""
        file = self.folder / SAMPLES
        try:
            with file.filesystem.open_input_file(file.path) as handle:
                return pq.read_table(handle, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"cannot read {file}: {error}; draw the samples again") from error

    def batches(self, batch_size: int = 256) -> Iterator[Batch]:
        """All samples in the manifest's order; indices are rows of the manifest."""
        labels = self.manifest(["class"])["class"].to_numpy()
        for start in range(0, len(self), batch_size):
            rows = range(start, min(start + batch_size, len(self)))
            here = torch.from_numpy(labels[rows.start : rows.stop].copy())
            yield Batch(
                images=torch.from_numpy(self.images(rows)),
                labels=None if self.info.classes is None else here,
                indices=torch.arange(rows.start, rows.stop),
                valid=torch.ones(len(rows), dtype=torch.bool),
                keys=tuple(f"row {row}" for row in rows),
            )

    def images(self, rows: Sequence[int]) -> Pixels:
        """The images (N,C,H,W) uint8 of these rows of the manifest, compared with their digests.

        Raises:
            InputError: a shard is missing or damaged.
        """
        table = self._places.take(pa.array(rows, pa.int64()))
        columns = (table[name].to_pylist() for name in ("shard", "offset", "bytes", "sha256"))
        wanted = [_Wanted(*fields) for fields in zip(range(len(rows)), *columns, strict=True)]
        images = np.empty((len(rows), *self.info.shape), np.uint8)
        read = self._from_tar if self.info.container == "tar" else self._from_parquet
        with ThreadPoolExecutor(_PARALLEL_READS) as pool:
            for group, encoded in pool.map(read, _together(wanted, self.info.container)):
                for one, data in zip(group, encoded, strict=True):
                    images[one.place] = self._decoded(one, data)
        return images

    @cached_property
    def _places(self) -> pa.Table:
        return self.manifest(["shard", "offset", "bytes", "sha256"])

    def _from_tar(self, group: list[_Wanted]) -> tuple[list[_Wanted], list[bytes]]:
        """The encoded images of samples that lie together, by one read."""
        shard, first = group[0].shard, group[0].offset
        data = self._read(shard, first, group[-1].offset + group[-1].bytes - first)
        encoded = []
        for one in group:
            begin = one.offset - first
            records = plain_samples(data[begin : begin + one.bytes], shard)
            if records is None or len(records) != 1 or self.info.encoding not in records[0].fields:
                raise InputError(f"{self.folder}/{shard} is damaged at byte {one.offset}")
            encoded.append(records[0].fields[self.info.encoding])
        return group, encoded

    def _from_parquet(self, group: list[_Wanted]) -> tuple[list[_Wanted], list[bytes]]:
        row = next(row for row in self.shards if row.shard == group[0].shard)
        file = io.BytesIO(self._read(row.shard, 0, row.bytes))
        images = pq.read_table(file, columns=["image"])["image"]
        return group, [images[one.offset].as_py() for one in group]

    def _read(self, shard: str, offset: int, length: int) -> bytes:
        try:
            return (self.folder / shard).read_range(offset, length)
        except OSError as error:
            raise InputError(f"cannot read {self.folder}/{shard}: {error}") from error

    def _decoded(self, one: _Wanted, data: bytes) -> Pixels:
        place = f"{self.folder}/{one.shard}@{one.offset}"
        try:
            image = decode_image(data, self.info.shape)
        except SampleError as error:
            raise InputError(f"{place}: {error}; draw the samples again") from error
        if hashlib.sha256(image.tobytes()).hexdigest() != one.sha256:
            raise InputError(f"{place}: the pixels are not those of the manifest (SHA-256)")
        return image


def open_sample_set(url_or_path: str) -> SampleSet:
    """Open a finished set, after the checks that need no shard to be read.

    Raises:
        InputError: there is none, it is no set of samples, or shards are missing or cut short.
    """
    folder = open_storage(url_or_path)
    info = read_info(folder)
    if (folder / SAMPLES).size() is None:
        raise InputError(f"{folder} has no {SAMPLES}: it was not made by jobs.sample")
    if info.container == "tar":
        return SampleSet(folder, info, open_dataset(url_or_path).rows)
    rows = read_manifest(folder, info)
    sizes = folder.file_sizes()
    wrong = [row.shard for row in rows if sizes.get(row.shard) != row.bytes]
    if wrong:
        raise InputError(f"{folder}: shards {wrong[:5]} are missing or cut short; restore them")
    return SampleSet(folder, info, rows)


def _together(wanted: list[_Wanted], container: str) -> list[list[_Wanted]]:
    """Samples in groups that one read fetches: neighbours in a tar, all of a Parquet file."""
    groups: list[list[_Wanted]] = []
    for one in sorted(wanted, key=lambda one: (one.shard, one.offset)):
        last = groups[-1][-1] if groups else None
        near = (
            last is not None
            and last.shard == one.shard
            and (container == "parquet" or one.offset - last.offset - last.bytes < _GAP_BYTES)
        )
        if near:
            groups[-1].append(one)
        else:
            groups.append([one])
    return groups


def rows_by_class(samples: SampleSet, most: int) -> dict[int, list[int]]:
    """The first `most` rows of each class, by class; of -1 in a set without classes."""
    labels = samples.manifest(["class"])["class"].to_numpy()
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    ends = [*starts[1:].tolist(), len(order)]
    return {
        int(label): order[start : min(start + most, end)].tolist()
        for label, start, end in zip(present, starts.tolist(), ends, strict=True)
    }


def class_name(samples: SampleSet, label: int) -> str:
    """The name of a class."""
    return "samples" if label == NO_LABEL else samples.info.class_names[label]
