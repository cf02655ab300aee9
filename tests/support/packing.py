"""Images in every form that can be packed, and what must come out: for the tests of packing."""

import gzip
import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from pipeline.config.prepare import PrepareConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.decode import encode_png
from pipeline.data.stream import iterate_once
from pipeline.errors import InputError
from pipeline.prepare.splits import plan_prepare, prepare

RNG = np.random.Generator(np.random.Philox(7))
GREY = RNG.integers(0, 256, (12, 1, 6, 5), np.uint8)
COLOUR = RNG.integers(0, 256, (12, 3, 6, 5), np.uint8)
LABELS = np.arange(12) % 3
GOOD = encode_png(COLOUR[0])  # a usable image


def config(folder: Path, train: dict[str, Any], **changes: Any) -> PrepareConfig:
    given = {
        "output": str(folder / "out"),
        "splits": {"train": train},
        "shard_samples": 5,
        "block_samples": 2,
        "max_bad_fraction": 0.5,
    }
    return PrepareConfig.model_validate(given | changes)


def run(prepared: PrepareConfig) -> ShardedDataset:
    return prepare(plan_prepare(prepared))["train"]


def refuse(prepared: PrepareConfig, message: str) -> None:
    """The configuration is refused with `message`, and nothing is left but what was indexed."""
    with pytest.raises(InputError, match=message):
        prepare(plan_prepare(prepared))
    left = {path.parent.name for path in Path(prepared.output).rglob("*") if path.is_file()}
    indexes = {split.kind == "webdataset" for split in prepared.splits.values()}
    assert left <= ({"preparing"} if True in indexes else set())


def contents(dataset: ShardedDataset) -> dict[bytes, int]:
    """Pixels -> label of every sample, read back through the stream."""
    found = {}
    for batch in iterate_once(dataset, batch_size=5):
        labels = batch.labels.tolist() if batch.labels is not None else [-1] * len(batch.keys)
        found |= {i.numpy().tobytes(): k for i, k in zip(batch.images, labels, strict=True)}
    return found


def expected(images: np.ndarray, labels: np.ndarray | None = LABELS) -> dict[bytes, int]:
    numbers = [-1] * len(images) if labels is None else labels.tolist()
    return {image.tobytes(): label for image, label in zip(images, numbers, strict=True)}


def picture(image: np.ndarray, kind: str = "PNG", mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    shown = Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0))
    shown.convert(mode or shown.mode).save(buffer, format=kind, lossless=True)
    return buffer.getvalue()


def idx(folder: Path, images: np.ndarray = GREY, labels: np.ndarray = LABELS) -> dict[str, Any]:
    head = struct.pack(">4I", 0x803, len(images), *images.shape[2:])
    (folder / "images.gz").write_bytes(gzip.compress(head + images.tobytes()))
    (folder / "labels").write_bytes(struct.pack(">2I", 0x801, len(labels)) + bytes(labels.tolist()))
    return {"kind": "idx", "images": str(folder / "images.gz"), "labels": str(folder / "labels")}


def tree(folder: Path, images: np.ndarray = COLOUR) -> dict[str, Any]:
    for n, (image, label) in enumerate(zip(images, LABELS, strict=True)):
        place = folder / "tree" / f"class {label}" / f"part{n % 2}"
        place.mkdir(parents=True, exist_ok=True)
        (place / f"img.{n}.png").write_bytes(encode_png(image))
    (folder / "tree" / ".hidden").write_bytes(b"")
    return {"kind": "folder", "path": str(folder / "tree")}


def parquet(folder: Path, structs: bool = False, **columns: Any) -> dict[str, Any]:
    encoded: list[Any] = [picture(image, "WEBP") for image in COLOUR]
    if structs:
        encoded = [{"bytes": data, "path": "x"} for data in encoded]
    (folder / "parquet").mkdir(exist_ok=True)
    for part in range(2):
        rows = slice(6 * part, 6 * part + 6)
        table = pa.table({"image": encoded[rows], "label": LABELS[rows].astype(np.uint8)} | columns)
        pq.write_table(table, folder / "parquet" / f"{part}.parquet", row_group_size=4)
    return {"kind": "parquet", "path": str(folder / "parquet")}


def tars(folder: Path, members: list[tuple[str, bytes]] | None = None) -> dict[str, Any]:
    (folder / "tars").mkdir(exist_ok=True)
    if members is None:
        members = []
        for n, image in enumerate(COLOUR):
            label = json.dumps({"label": int(LABELS[n])}).encode()
            members += [(f"k/{n:03d}.json", label), (f"k/{n:03d}.png", encode_png(image))]
    half = len(members) // 4 * 2
    for part, own in enumerate((members[:half], members[half:])):
        with tarfile.open(folder / "tars" / f"{part}.tar", "w:") as archive:
            for name, content in own:
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return {"kind": "webdataset", "path": str(folder / "tars")}
