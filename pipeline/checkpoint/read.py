"""Reading a checkpoint: only the bytes that are wanted, each piece compared with its digest."""

import hashlib
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from safetensors.torch import load as load_tensors
from torch import Tensor

from pipeline.checkpoint.fragment import AVERAGE, Fragment
from pipeline.checkpoint.record import (
    COMMIT,
    INDEX,
    PIECE,
    CheckpointRecord,
    FileRecord,
    Index,
)
from pipeline.errors import InputError
from pipeline.storage import Location


class DamagedError(InputError):
    """A file of a checkpoint is missing, short or changed."""


class Wanted(NamedTuple):
    """A fragment to be filled with state of a kind."""

    kind: str
    fragment: Fragment


class _Stored(NamedTuple):
    """Elements `offset`, … of a parameter: `length` of them, from byte `at` on of a file."""

    offset: int
    length: int
    file: str
    at: int


class _Piece(NamedTuple):
    """Bytes of a file that belong into `target` (uint8)."""

    file: str
    at: int
    target: NDArray[np.uint8]


class CheckpointReader:
    """One committed checkpoint, open for reading.

    Raises DamagedError, naming the file, where what is stored is not what was committed.
    """

    def __init__(self, folder: Location, record: CheckpointRecord) -> None:
        """Read the index."""
        self._folder, self._record = folder, record
        self.index = Index.model_validate_json(self._verified(INDEX))
        self._stored = _by_kind_and_parameter(self.index)

    @property
    def averages(self) -> list[str]:
        """The names of the averages in it."""
        return [k.removeprefix(AVERAGE) for k in self.index.kinds if k.startswith(AVERAGE)]

    def fill(self, wanted: Sequence[Wanted]) -> None:
        """Read the elements of each fragment into its tensor, whatever ranks wrote them.

        Raises InputError for a kind, or a parameter, that is not there.
        """
        staged = [torch.empty(len(fragment.tensor)) for _, fragment in wanted]
        pieces = [
            piece
            for (kind, fragment), target in zip(wanted, staged, strict=True)
            for piece in self._pieces(kind, fragment.name, fragment.offset, target)
        ]
        self._read(sorted(pieces, key=lambda piece: piece[:2]))
        for (_, fragment), source in zip(wanted, staged, strict=True):
            fragment.tensor.copy_(source)

    def buffers(self) -> dict[str, Tensor]:
        """What is no parameter."""
        name = next(name for name in self._record.files if name.startswith("buffers."))
        return load_tensors(self._verified(name))

    def whole(self, kind: str) -> dict[str, Tensor]:
        """Every parameter's state of one kind, whole, and the buffers."""
        shapes = self.index.parameters
        full = {name: torch.empty(shape) for name, shape in shapes.items()}
        self.fill([Wanted(kind, Fragment(name, 0, t.view(-1))) for name, t in full.items()])
        return full | self.buffers()

    def _pieces(self, kind: str, name: str, offset: int, target: Tensor) -> Iterator[_Piece]:
        """Where the elements of `target` lie, which begins at `offset` of the parameter."""
        if (kind, name) not in self._stored:
            raise InputError(
                f"{self._folder} has no {kind} of {name}; it has {', '.join(self.index.kinds)} of "
                f"{len(self.index.parameters)} parameters"
            )
        stored, raw = self._stored[kind, name], target.numpy().view(np.uint8)
        end, at = offset + len(target), offset
        place = bisect_right(stored, at, key=lambda part: part.offset) - 1
        while at < end:
            part = stored[place]
            stop = min(end, part.offset + part.length)
            into = raw[4 * (at - offset) : 4 * (stop - offset)]
            yield _Piece(part.file, part.at + 4 * (at - part.offset), into)
            at, place = stop, place + 1

    def _read(self, pieces: Iterable[_Piece]) -> None:
        """Fill the targets, in the order of files and places: each piece is read once."""
        held, content = ("", -1), b""
        for file, at, target in pieces:
            done = 0
            while done < len(target):
                number, inside = divmod(at + done, PIECE)
                if held != (file, number):
                    held, content = (file, number), self._piece(file, number)
                part = np.frombuffer(content, np.uint8)[inside : inside + len(target) - done]
                target[done : done + len(part)] = part
                done += len(part)

    def _verified(self, name: str) -> bytes:
        """The whole of a small file."""
        count = len(self._record.files[name].sha256)
        return b"".join(self._piece(name, number) for number in range(count))

    def _piece(self, name: str, number: int) -> bytes:
        expected, file = self._record.files[name], self._folder / name
        length = min(PIECE, expected.bytes - number * PIECE)
        try:
            content = file.read_range(number * PIECE, length)
        except FileNotFoundError:
            raise DamagedError(f"{file} is missing") from None
        if len(content) != length:
            raise DamagedError(f"{file} has fewer than {expected.bytes} bytes")
        if hashlib.sha256(content).hexdigest() != expected.sha256[number]:
            raise DamagedError(f"{file} has changed after it was written")
        return content


def open_checkpoint(folder: Location) -> CheckpointReader:
    """Open the checkpoint in `folder`.

    Raises:
        InputError: there is none, or it is damaged.
    """
    if (folder / COMMIT).size() is None:
        raise InputError(f"{folder} is no complete checkpoint: it has no {COMMIT}")
    try:
        record = CheckpointRecord.model_validate_json((folder / COMMIT).read_bytes())
    except ValidationError as error:
        raise DamagedError(f"{folder}/{COMMIT} cannot be read: {error}") from None
    return CheckpointReader(folder, record)


def wrong_size(folder: Location, files: dict[str, FileRecord]) -> str | None:
    """Which file is missing or has another size than it should; None if none."""
    for name, size in zip(files, folder.sizes(list(files)), strict=True):
        if size != files[name].bytes:
            found = "is missing" if size is None else f"has {size} bytes"
            return f"{folder}/{name} {found}; {files[name].bytes} were written"
    return None


def _by_kind_and_parameter(index: Index) -> dict[tuple[str, str], list[_Stored]]:
    names, found = list(index.parameters), defaultdict(list)
    for file, layout in index.files.items():
        at = layout.start
        for kind in index.kinds:
            for place, offset, length in layout.fragments:
                found[kind, names[place]].append(_Stored(offset, length, file, at))
                at += 4 * length
    return {key: sorted(parts) for key, parts in found.items()}
