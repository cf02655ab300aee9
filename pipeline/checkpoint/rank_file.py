"""One rank's share of the state as a safetensors file in host memory.

The memory is taken once and reused by every save; on a GPU it is page-locked, so that the copies
run beside the training.
"""

import json
from collections.abc import Sequence

import torch
from torch import Tensor

from pipeline.checkpoint.fragment import Fragment
from pipeline.checkpoint.record import FileLayout


class RankFile:
    """A safetensors file: length of the header, JSON header, data.

    A tensor of it is named `<kind>/<parameter>[<first>:<end>]` after the elements that it holds.
    """

    def __init__(
        self,
        kinds: Sequence[str],
        fragments: Sequence[Fragment],
        parameters: Sequence[str],
        *,
        pinned: bool,
    ) -> None:
        """Lay out a file of `fragments`, once for each kind.

        Args:
            parameters: every parameter's name, in the order of the index.
        """
        places = {name: place for place, name in enumerate(parameters)}
        ranges = tuple((f.name, f.offset, len(f.tensor)) for f in fragments)
        header = _header(kinds, ranges)
        start = len(header)
        elements = len(kinds) * sum(length for _, _, length in ranges)
        self._buffer = torch.empty(start + 4 * elements, dtype=torch.uint8, pin_memory=pinned)
        self._buffer[:start] = torch.frombuffer(bytearray(header), dtype=torch.uint8)
        lengths = [length for _ in kinds for _, _, length in ranges]
        self._tensors = self._buffer[start:].view(torch.float32).split_with_sizes(lengths)
        self._copied: torch.Event | None = None
        self.layout = FileLayout(
            start=start, fragments=tuple((places[name], at, length) for name, at, length in ranges)
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


def _header(kinds: Sequence[str], ranges: Sequence[tuple[str, int, int]]) -> bytes:
    entries, at = {}, 0
    for kind in kinds:
        for name, offset, length in ranges:
            entries[f"{kind}/{name}[{offset}:{offset + length}]"] = {
                "dtype": "F32",
                "shape": [length],
                "data_offsets": [at, at + 4 * length],
            }
            at += 4 * length
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # float32 needs an aligned start
    return len(text).to_bytes(8, "little") + text
