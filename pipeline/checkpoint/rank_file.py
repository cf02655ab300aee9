"""One rank's share of the state as a safetensors file in host memory.

The memory is taken once and reused by every save; on a GPU it is page-locked, so that the copies
run beside the training.
"""

import json
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from pipeline.checkpoint.fragment import Fragment
from pipeline.checkpoint.record import FileLayout
from pipeline.checkpoint.share import Range, Share


class RankFile:
    """A safetensors file: length of the header, JSON header, data.

    A tensor of it is named `<kind>/<parameter>[<first>:<end>]` after the elements that it holds. A
    share of every parameter has one tensor for each kind, with that name, the parameters in a row.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        fragments: Sequence[Fragment],
        parameters: Mapping[str, int],
        share: Share,
        *,
        pinned: bool,
    ) -> None:
        """Lay out a file of `fragments`, once for each kind.

        Args:
            parameters: how many elements each parameter has, in the order of the index.
            share: rank and ranks; the layout says no more where the fragments are just that.
        """
        ranges = tuple((f.name, f.offset, len(f.tensor)) for f in fragments)
        shared = share.of > 1 and ranges == tuple(share.ranges(parameters))
        header = _header(_shared(kinds, ranges) if shared else _listed(kinds, ranges))
        start = len(header)
        elements = len(kinds) * sum(length for _, _, length in ranges)
        self._buffer = torch.empty(start + 4 * elements, dtype=torch.uint8, pin_memory=pinned)
        self._buffer[:start] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        lengths = [length for _ in kinds for _, _, length in ranges]
        self._tensors = self._buffer[start:].view(torch.float32).split_with_sizes(lengths)
        self._copied: torch.Event | None = None
        places = {name: place for place, name in enumerate(parameters)}
        listed = tuple((places[name], at, length) for name, at, length in ranges)
        self.layout = (
            FileLayout(start=start, share=share)
            if shared
            else FileLayout(start=start, fragments=listed)
        )

    def fill(self, tensors: Sequence[Tensor]) -> None:
        """Copy the state, kind by kind, in the order of the fragments.

        On a GPU this returns before the copies are done: they come before whatever the stream is
        given next, and `content` waits for them.
        """
        for place, tensor in zip(self._tensors, tensors, strict=True):
            place.copy_(tensor, non_blocking=True)
        if any(tensor.is_cuda for tensor in tensors):
            self._copied = torch.Event("cuda")
            self._copied.record()

    def content(self) -> memoryview:
        """The whole file."""
        if self._copied is not None:
            self._copied.synchronize()
        return self._buffer.numpy().data


def _listed(kinds: Sequence[str], ranges: Sequence[Range]) -> list[tuple[str, int]]:
    """Name and elements of each tensor: one for each fragment and kind."""
    return [
        (f"{kind}/{name}[{at}:{at + length}]", length)
        for kind in kinds
        for name, at, length in ranges
    ]


def _shared(kinds: Sequence[str], ranges: Sequence[Range]) -> list[tuple[str, int]]:
    """One for each kind."""
    return [(kind, sum(length for _, _, length in ranges)) for kind in kinds]


def _header(tensors: Sequence[tuple[str, int]]) -> bytes:
    entries, at = {}, 0
    for name, length in tensors:
        entries[name] = {
            "dtype": "F32",
            "shape": [length],
            "data_offsets": [at, at + 4 * length],
        }
        at += 4 * length
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # float32 needs an aligned start
    return len(text).to_bytes(8, "little") + text
