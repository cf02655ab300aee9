"""Reading a checkpoint: only the bytes that are wanted, each piece compared with its digest."""

import hashlib
import math
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
from pipeline.checkpoint.places import places_of
from pipeline.checkpoint.record import (
    COMMIT,
    INDEX,
    PIECE,
    CheckpointRecord,
    FileRecord,
    Index,
    parse_commit,
)
from pipeline.errors import InputError
from pipeline.storage import Location


class DamagedError(InputError):
    """A file of a checkpoint is missing, short or changed."""


class Wanted(NamedTuple):
    """A fragment to be filled with state of a kind."""

    kind: str
    fragment: Fragment


class _Piece(NamedTuple):
    """Bytes of a file, from `at` on, that belong into `target` (uint8)."""

    at: int
    target: NDArray[np.uint8]


class CheckpointReader:
    """One committed checkpoint, open for reading.

    Raises DamagedError, naming the file, where what is stored is not what was committed.
    """

    def __init__(self, folder: Location, record: CheckpointRecord) -> None:
        """Read the index."""
        self._folder, self._record = folder, record
        self.index = self._read_index()
        self._places = places_of(self.index)
        self._files = list(self.index.files.items())
        self._parameters = {name: number for number, name in enumerate(self.index.parameters)}

    @property
    def averages(self) -> list[str]:
        """The names of the averages in it."""
        return [k.removeprefix(AVERAGE) for k in self.index.kinds if k.startswith(AVERAGE)]

    def _read_index(self) -> Index:
        """Raise DamagedError for an index that does not belong to the commit."""
        held, place = self._record.files, self._folder / INDEX
        if INDEX not in held or not any(name.startswith("buffers.") for name in held):
            raise DamagedError(f"{self._folder}/{COMMIT} names no {INDEX} or no buffers")
        try:
            index = Index.model_validate_json(self._verified(INDEX))
        except ValidationError as error:
            raise DamagedError(f"{place} cannot be read: {error}") from None
        elements = sum(math.prod(shape) for shape in index.parameters.values())
        if not index.files.keys() <= held.keys() or 4 * elements > sum(
            held[name].bytes for name in index.files
        ):
            raise DamagedError(f"{place} promises more than the files of {COMMIT} hold")
        return index

    def fill(self, wanted: Sequence[Wanted]) -> None:
        """Read the elements of each fragment into its tensor, whatever ranks wrote them.

        Raises InputError for a kind, or a parameter, that is not there.
        """
        staged = [torch.empty(len(fragment.tensor)) for _, fragment in wanted]
        for file, numbers in self._holders(wanted).items():
            pieces = [
                piece
                for number in numbers
                for piece in self._pieces(file, wanted[number], staged[number])
            ]
            self._read(self._files[file][0], sorted(pieces, key=lambda piece: piece.at))
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

    def _holders(self, wanted: Sequence[Wanted]) -> dict[int, list[int]]:
        """The files that have any of `wanted`, by number, and which of `wanted` that is."""
        found: defaultdict[int, list[int]] = defaultdict(list)
        for number, (kind, (name, offset, tensor)) in enumerate(wanted):
            if kind not in self.index.kinds or name not in self._parameters:
                raise InputError(
                    f"{self._folder} has no {kind} of {name}; it has "
                    f"{', '.join(self.index.kinds)} of {len(self.index.parameters)} parameters"
                )
            end = offset + len(tensor)
            for file in self._places.files(self._parameters[name], offset, end):
                found[file].append(number)
        return dict(sorted(found.items()))

    def _pieces(self, file: int, wanted: Wanted, target: Tensor) -> Iterator[_Piece]:
        """Where in a file the elements of `target` lie that it has."""
        kind, (name, first, _) = wanted
        kinds_before = self.index.kinds.index(kind) * self._places.elements(file)
        start = self._files[file][1].start + 4 * kinds_before
        raw, end = target.numpy().view(np.uint8), first + len(target)
        for offset, length, at in self._places.held(file, self._parameters[name]):
            low, high = max(first, offset), min(end, offset + length)
            if low < high:
                into = raw[4 * (low - first) : 4 * (high - first)]
                yield _Piece(start + 4 * (at + low - offset), into)

    def _read(self, file: str, pieces: Iterable[_Piece]) -> None:
        """Fill the targets, by rising place in the file: each digested piece is read once."""
        held, content = -1, b""
        for at, target in pieces:
            done = 0
            while done < len(target):
                number, inside = divmod(at + done, PIECE)
                if held != number:
                    held, content = number, self._piece(file, number)
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
        InputError: there is none, or it is damaged or of another format.
    """
    if (folder / COMMIT).size() is None:
        raise InputError(f"{folder} is no complete checkpoint: it has no {COMMIT}")
    try:
        record = parse_commit(folder / COMMIT)
    except ValidationError as error:
        raise DamagedError(f"{folder}/{COMMIT} cannot be read: {error}") from None
    return CheckpointReader(folder, record)


def wrong_size(folder: Location, files: dict[str, FileRecord]) -> str | None:
    """Which file is missing or has another size than it should; None if none."""
    sizes = folder.file_sizes()
    for name, record in files.items():
        if sizes.get(name) != record.bytes:
            found = f"has {sizes[name]} bytes" if name in sizes else "is missing"
            return f"{folder}/{name} {found}; {record.bytes} were written"
    return None
