"""The operations that a model's two passes consist of: what each computes and moves.

Found by watching the passes below autograd, on fake tensors or on real ones. What an operation
takes depends on little else than its kind, its arithmetic and the bytes it touches, so a plan can
be made of operations that were timed in another network.
"""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import (
    flop_registry,
    sdpa_backward_flop_count,
    sdpa_flop_count,
)

from pipeline.planning.passes import decoder_radius, empty_inputs, two_passes
from pipeline.training.trained import Trained


class Operation(NamedTuple):
    """`name`: ATen's, with the type of its arguments, such as "convolution float32".

    `flops`: of matrix products and convolutions; 0 for all else. `bytes`: of its arguments and
    results, each once; 0 for a view.
    """

    name: str
    flops: int
    bytes: int


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """As a context: `found` lists the operations inside, in their order."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Operation] = []

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        """Run the operation and note it down."""
        keywords = keywords or {}
        if operation.namespace == "prim":  # asks a fake tensor where it is
            return operation(*arguments, **keywords)
        answer = self.run(operation, arguments, keywords)
        self.found.append(described(operation, arguments, keywords, answer))
        return answer

    def run(self, operation: Any, arguments: Any, keywords: Any) -> Any:
        """How it is run: fake tensors have no values, so a check of one finds nothing wrong."""
        if operation is torch.ops.aten._local_scalar_dense.default:
            return False
        return operation(*arguments, **keywords)


def passes_operations(trained: Trained, micro_batch: int, *, bfloat16: bool) -> Counter[Operation]:
    """How often each operation occurs in the two passes over `micro_batch` images.

    Nothing is computed. `bfloat16`: the networks run under autocast.

    Raises:
        InputError: as `build_family`.
    """
    radius = decoder_radius(trained)
    with FakeTensorMode(allow_non_fake_inputs=True):
        model = trained.build()
        inputs = empty_inputs(model, trained, micro_batch)
        with Operations() as watched:
            two_passes(model, inputs, radius, bfloat16=bfloat16)
    return Counter(watched.found)


def described(operation: Any, arguments: Any, keywords: Any, answer: Any) -> Operation:
    """An operation that took `arguments` and returned `answer`."""
    given, made = _tensors((arguments, keywords)), _tensors(answer)
    name = _kind(operation._overloadpacket.__name__)
    floating = next((t for t in (*given, *made) if t.is_floating_point()), None)
    dtype = str(floating.dtype).removeprefix("torch.") if floating is not None else "integer"
    moved = 0 if _is_view(operation) else sum(map(_bytes, (*given, *made)))
    return Operation(f"{name} {dtype}", _flops(name, operation, arguments, keywords, answer), moved)


def _kind(name: str) -> str:
    """Attention has a name for each device and library that computes it; here it has one."""
    if not name.startswith("_scaled_dot_product"):
        return name
    return "attention_backward" if name.endswith("backward") else "attention"


def _flops(name: str, operation: Any, arguments: Any, keywords: Any, answer: Any) -> int:
    if name == "attention":
        shapes = [tensor.shape for tensor in arguments[:3]]
        return int(sdpa_flop_count(*shapes))  # type: ignore[no-untyped-call]
    if name == "attention_backward":
        shapes = [tensor.shape for tensor in arguments[:4]]
        return int(sdpa_backward_flop_count(*shapes))  # type: ignore[no-untyped-call]
    count = flop_registry.get(operation._overloadpacket)
    return 0 if count is None else int(count(*arguments, **keywords, out_val=answer))


def _is_view(operation: Any) -> bool:
    returned = operation._schema.returns
    alias = [value.alias_info for value in returned]
    return bool(alias) and all(info is not None and not info.is_write for info in alias)


def _tensors(tree: Any) -> Iterable[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _bytes(tensor: Tensor) -> int:
    """What is there of it: a tensor that was expanded is read from fewer bytes."""
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())
