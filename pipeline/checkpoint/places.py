"""In which files of a checkpoint, and where in them, elements of a parameter lie."""

import math
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from pipeline.checkpoint.record import FileLayout, Index
from pipeline.checkpoint.share import Share, part_size


class Held(NamedTuple):
    """Elements `offset`, … of a parameter, `length` of them: from element `at` of a kind on."""

    offset: int
    length: int
    at: int


class Places(Protocol):
    """What the files, by their number in the index, hold of each parameter, by its number there.

    A file has the same elements of each kind, in the same order; `elements` is how many.
    """

    def files(self, parameter: int, first: int, end: int) -> Iterable[int]:
        """Those that hold any of elements [first, end)."""

    def held(self, file: int, parameter: int) -> Iterable[Held]:
        """What a file holds of a parameter, by rising offset."""

    def elements(self, file: int) -> int:
        """Of one kind, in a file."""


def places_of(index: Index) -> Places:
    """The places that the layouts of an index's files say."""
    sizes = [math.prod(shape) for shape in index.parameters.values()]
    layouts = list(index.files.values())
    shares = [layout.share for layout in layouts]
    if shares == [Share(number, len(layouts)) for number in range(len(layouts))]:
        return _SharedPlaces(sizes, len(layouts))
    return _ListedPlaces([_fragments(layout, sizes) for layout in layouts])


def _fragments(layout: FileLayout, sizes: list[int]) -> Iterable[tuple[int, int, int]]:
    if layout.share is None:
        return layout.fragments
    parts = [(n, layout.share.offset(s), layout.share.length(s)) for n, s in enumerate(sizes)]
    return [part for part in parts if part[2]]


class _ListedPlaces:
    """As many entries as there are fragments."""

    def __init__(self, files: list[Iterable[tuple[int, int, int]]]) -> None:
        self._files: list[dict[int, list[Held]]] = []
        self._elements: list[int] = []
        holders: defaultdict[int, list[tuple[int, int, int]]] = defaultdict(list)
        for number, fragments in enumerate(files):
            held: defaultdict[int, list[Held]] = defaultdict(list)
            at = 0
            for parameter, offset, length in fragments:
                held[parameter].append(Held(offset, length, at))
                holders[parameter].append((offset, offset + length, number))
                at += length
            self._files.append({parameter: sorted(parts) for parameter, parts in held.items()})
            self._elements.append(at)
        self._holders = {parameter: sorted(parts) for parameter, parts in holders.items()}

    def files(self, parameter: int, first: int, end: int) -> Iterable[int]:
        parts = self._holders.get(parameter, [])
        at = max(0, bisect_right(parts, first, key=lambda part: part[0]) - 1)
        found = []
        while at < len(parts) and parts[at][0] < end:
            found.append(parts[at][2])
            at += 1
        return dict.fromkeys(found)

    def held(self, file: int, parameter: int) -> Iterable[Held]:
        return self._files[file].get(parameter, ())

    def elements(self, file: int) -> int:
        return self._elements[file]


class _SharedPlaces:
    """Arithmetic, and the ends of the parameters in the files that are asked for."""

    def __init__(self, sizes: list[int], files: int) -> None:
        self._sizes, self._count = sizes, files
        self._all = np.array(sizes, np.int64)
        self._parts = -(-self._all // files)
        self._ends: dict[int, NDArray[np.int64]] = {}

    def files(self, parameter: int, first: int, end: int) -> Iterable[int]:
        size = part_size(self._sizes[parameter], self._count)
        return range(first // size, -(-end // size)) if first < end else ()

    def held(self, file: int, parameter: int) -> Iterator[Held]:
        share, elements = Share(file, self._count), self._sizes[parameter]
        length = share.length(elements)
        if length:
            end = int(self._ends_in(file)[parameter])
            yield Held(share.offset(elements), length, end - length)

    def elements(self, file: int) -> int:
        return int(self._ends_in(file)[-1])

    def _ends_in(self, file: int) -> NDArray[np.int64]:
        if file not in self._ends:
            left = self._all - np.minimum(file * self._parts, self._all)
            self._ends[file] = np.cumsum(np.minimum(self._parts, left))
        return self._ends[file]
