"""What the forward and backward pass keep in memory, by watching them without computing them.

The network runs on fake tensors: shapes and types without data, so a model of any size is looked
at in a second. Whatever its operations make is counted while it lives. On a GPU the kernels differ
a little from those of the CPU that are followed here, and so may what they keep.
"""

import weakref
from collections.abc import Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from pipeline.config.model import ModelConfig, UNetConfig
from pipeline.model.build import build_vdm


class PassMemory(NamedTuple):
    """Bytes beyond weights and optimizer, at most, in the two passes over a micro-batch.

    `growing` counts gradients as they appear, `without` does not count them.
    """

    growing: int
    without: int


@lru_cache(maxsize=128)
def pass_memory(
    model: ModelConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    levels: int,
    micro_batch: int,
    *,
    bfloat16: bool,
) -> PassMemory:
    """Watch the two passes over `micro_batch` images (C,H,W) = `shape`.

    The loss around the network is watched apart from it and added, as if both were at their
    greatest at once.

    Args:
        classes: of the data set; None if it has no labels.
        levels: values of a channel.
        bfloat16: the network runs under autocast.
    """
    loss = _loss_peak(model, shape, classes, levels, micro_batch)
    with FakeTensorMode():
        network = build_vdm(model, shape, classes, 0, levels).network
        growing = _network_peak(network, shape, micro_batch, bfloat16)
        for parameter in network.parameters():
            parameter.grad = None
            parameter.register_post_accumulate_grad_hook(_drop_gradient)  # type: ignore[no-untyped-call]
        without = _network_peak(network, shape, micro_batch, bfloat16)
    return PassMemory(growing + loss, without + loss)


def _network_peak(
    network: nn.Module, shape: tuple[int, int, int], micro_batch: int, bfloat16: bool
) -> int:
    z = torch.empty(micro_batch, *shape, requires_grad=True)
    gamma = torch.empty(micro_batch, requires_grad=True)
    with LiveBytes(network.parameters()) as live:
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            answer = network(z, gamma, None)
        answer.float().sum().backward()
    return live.peak


class _Pass(nn.Module):
    """In the network's place: next to nothing, but the schedule's gradient passes through it."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        return self.scale * z


def _loss_peak(
    model: ModelConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    levels: int,
    micro_batch: int,
) -> int:
    """The peak of the ELBO's terms and of the schedule: really computed, for one and two images."""
    small = model.model_copy(update={"network": UNetConfig(kind="unet", width=32, blocks=1)})
    vdm = build_vdm(small, shape, classes, 0, levels)
    vdm.network = _Pass()

    def peak(images: int) -> int:
        draws = vdm.draws(shape)
        given = {name: torch.zeros(images, *draw.shape) for name, draw in draws.items()}
        with LiveBytes(vdm.parameters()) as live:
            terms = vdm(torch.zeros(images, *shape, dtype=torch.uint8), None, **given)
            terms.total.mean().backward()
        return live.peak

    one = peak(1)
    return one + (micro_batch - 1) * (peak(2) - one)


def _drop_gradient(parameter: Tensor) -> None:
    parameter.grad = None


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """As a context: `peak` is the greatest number of bytes that were alive at once.

    Counts what the operations inside make, on any device, and not what was there before.
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
