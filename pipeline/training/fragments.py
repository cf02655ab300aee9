"""Which part of the training state a rank holds, in terms that no topology appears in.

At every ZeRO stage the float32 weights and Adam's moments of a rank are ranges of a few flat
"master" tensors. Here such a range becomes a fragment: elements `offset`, `offset` + 1, … of the
flattened parameter `name`. The fragments of all ranks cover each parameter exactly once, so they
can be written, averaged and read back without knowing how many ranks there were.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.checkpoint.fragment import MOMENTS, Fragment


class Holding(NamedTuple):
    """`length` elements of a parameter from `offset` on: those of flat `master` from `start` on."""

    name: str
    offset: int
    length: int
    master: Tensor
    start: int

    def of(self, flat: Tensor) -> Fragment:
        """The fragment of a tensor that is laid out as `master` is."""
        return Fragment(
            self.name, self.offset, flat.detach().view(-1).narrow(0, self.start, self.length)
        )


def holdings(engine: Any, stage: int) -> list[Holding]:
    """What this rank answers for, in the order of the parameters.

    Stage 0 has a replica on every rank: each answers for an equal share of all elements. Stages 1
    and 2 cut each parameter group, stage 3 each parameter, into one contiguous part for each rank.

    Args:
        engine: DeepSpeed's, of ZeRO stage `stage`.
    """
    named = list(engine.module.named_parameters())
    match stage:
        case 0:
            return list(_equal_shares(named))
        case 1 | 2:
            return list(_of_partitioned_groups(named, engine.optimizer))
        case _:
            return list(_of_partitioned_parameters(named, engine.optimizer))


def _equal_shares(named: Sequence[tuple[str, Tensor]]) -> Iterator[Holding]:
    rank, world = dist.get_rank(), dist.get_world_size()
    total = sum(parameter.numel() for _, parameter in named)
    first, end, at = total * rank // world, total * (rank + 1) // world, 0
    for name, parameter in named:
        start = max(first - at, 0)
        length = min(end - at, parameter.numel()) - start
        if length > 0:
            yield Holding(name, start, length, parameter, start)
        at += parameter.numel()


def _of_partitioned_groups(named: Sequence[tuple[str, Any]], optimizer: Any) -> Iterator[Holding]:
    for name, parameter in named:
        mapping = parameter._hp_mapping
        if mapping is not None:
            part, master = mapping.lp_fragment_address, mapping.hp_fragment_address
            flat = optimizer.single_partition_of_fp32_groups[mapping.param_group_index]
            yield Holding(name, part.start, part.numel, flat, master.start)


def _of_partitioned_parameters(
    named: Sequence[tuple[str, Any]], optimizer: Any
) -> Iterator[Holding]:
    for name, parameter in named:
        group, start, size = optimizer.grad_position[optimizer.get_param_id(parameter)]
        offset = dist.get_rank() * size
        length = min(size, parameter.ds_numel - offset)  # the last part is padded
        if length > 0:
            flat = optimizer.fp32_partitioned_groups_flat[group]
            yield Holding(name, offset, length, flat, start)


def masters(engine: Any, stage: int) -> list[Tensor]:
    """The tensors that this rank's Adam updates, whether or not a parameter lies in them."""
    match stage:
        case 0:
            return list(engine.module.parameters())
        case 1 | 2:
            return list(engine.optimizer.single_partition_of_fp32_groups)
        case _:
            return list(engine.optimizer.fp32_partitioned_groups_flat)


def adam_state(optimizer: torch.optim.Optimizer, master: Tensor) -> dict[str, Tensor]:
    """Adam's state of one master tensor; before the first step it is made, all zero."""
    state: dict[str, Tensor] = optimizer.state[master]
    if not state:
        on_device = optimizer.defaults.get("capturable") or optimizer.defaults.get("fused")
        state["step"] = torch.zeros((), device=master.device if on_device else "cpu")
        state |= {kind: torch.zeros_like(master.detach()) for kind in MOMENTS}
        optimizer.state[master] = state
    return state


def assemble(
    fragment: Fragment | None, shape: torch.Size, device: torch.device, *, everywhere: bool
) -> Tensor:
    """A whole parameter from each rank's fragment of it (None if it has none). Collective.

    Exact: the bits are added as integers, and each comes from one rank. Without `everywhere` only
    rank 0 has the result.
    """
    whole = torch.zeros(shape, device=device)
    if fragment is not None:
        end = fragment.offset + len(fragment.tensor)
        whole.view(-1)[fragment.offset : end].copy_(fragment.tensor)
    bits = whole.view(torch.int32)
    dist.all_reduce(bits) if everywhere else dist.reduce(bits, dst=0)
    return whole
