"""What the forward and backward pass keep in memory, by watching them without computing them.

The model runs on fake tensors: shapes and types without data, so one of any size is looked at in
a second. Whatever its operations make is counted while it lives. On a GPU the kernels differ a
little from those of the CPU that are followed here, and so may what they keep.
"""

import weakref
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from pipeline.model.family import Model
from pipeline.planning.passes import decoder_radius, empty_inputs, two_passes
from pipeline.training.trained import Trained


class PassMemory(NamedTuple):
    """Bytes beyond weights and optimizer, at most, in the two passes over a micro-batch.

    `growing` counts gradients as they appear, `without` does not count them.
    """

    growing: int
    without: int


def pass_memory(trained: Trained, micro_batch: int, *, bfloat16: bool) -> PassMemory:
    """Watch the two passes over `micro_batch` images; `bfloat16`: networks run under autocast.

    Raises:
        InputError: as `build_family`.
    """
    reach = decoder_radius(trained)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = trained.build()
        growing = _peak(model, trained, micro_batch, reach, bfloat16)
        for parameter in model.parameters():
            parameter.grad = None
            parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
        without = _peak(model, trained, micro_batch, reach, bfloat16)
    return PassMemory(growing, without)


def _peak(
    model: Model, trained: Trained, micro_batch: int, reach: int | None, bfloat16: bool
) -> int:
    with LiveBytes([*model.parameters(), *model.buffers()]) as live:
        inputs = empty_inputs(model, trained, micro_batch)
        two_passes(model, inputs, reach, bfloat16=bfloat16)
    return live.peak


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """As a context: `peak` is the greatest number of bytes that were alive at once.

    Counts what the operations inside make, on any device, and not what was there before. A check
    that looks at a value finds nothing wrong: fake tensors have none.
    """

    def __init__(self, there: Iterable[Tensor]) -> None:
        """`there`: tensors whose memory does not count, whoever returns them."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._known = {id(t.untyped_storage()): weakref.ref(t.untyped_storage()) for t in there}

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """Run the operation and count what it returns."""
        if operation is torch.ops.aten._local_scalar_dense.default:
            return False
        answer = operation(*arguments, **(keywords or {}))
        tree_map_only(Tensor, self._count, answer)
        return answer

    def _count(self, tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        key, size = id(storage), storage.nbytes()
        if key not in self._known:
            self._known[key] = weakref.ref(storage, lambda _: self._free(key, size))
            self.now += size
            self.peak = max(self.peak, self.now)
        return tensor

    def _free(self, key: int, size: int) -> None:
        del self._known[key]
        self.now -= size
