"""The operations of the passes: by hand, and the same on fake tensors as when they are run."""

from collections import Counter
from typing import Any

import pytest
import torch
from small_models import CLASSES, FAMILIES, SHAPE, configured
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from pipeline.benchmark.operations import time_passes
from pipeline.planning.operations import Operation, Operations, passes_operations
from pipeline.training.trained import Trained


class Run(Operations):
    """Operations on tensors with values."""

    def run(self, operation: Any, arguments: Any, keywords: Any) -> Any:
        """As it is."""
        return operation(*arguments, **keywords)


def test_two_layers_by_hand() -> None:
    """4 rows of 8, 16 and 2 numbers; a product takes 2 FLOPs for each pair, a view nothing."""
    first, second = nn.Linear(8, 16, bias=False), nn.Linear(16, 2, bias=False)
    x = torch.ones(4, 8)
    with Run() as watched:
        second(torch.sigmoid(first(x))).backward(torch.ones(4, 2))
    found = Counter(watched.found)
    # each product has the same three sizes; the gradient of the images themselves is not made
    for columns, rows, products in ((8, 16, 2), (16, 2, 3)):
        numbers = 4 * columns + columns * rows + 4 * rows
        same = Operation("mm float32", 2 * 4 * columns * rows, 4 * numbers)
        assert found[same] == products, same
    assert found[Operation("sigmoid float32", 0, 2 * 4 * 4 * 16)] == 1
    assert {o.bytes for o in found if o.name.startswith(("t ", "detach "))} == {0}


def test_what_is_expanded_is_read_once() -> None:
    """One number for 1000 rows is four bytes."""
    with Run() as watched:
        torch.zeros(1).expand(1000) + torch.zeros(1000)
    assert watched.found[-1] == Operation("add float32", 0, 4 + 4000 + 4000)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_has_one_name_on_every_device(dtype: torch.dtype) -> None:
    """Else one that was timed on a GPU would be unknown to a plan that watches the CPU's."""
    q = torch.ones(2, 4, 16, 8, dtype=dtype, requires_grad=True)
    with Run() as watched:
        scaled_dot_product_attention(q, q, q).sum().backward()
    names = {operation.name.split()[0] for operation in watched.found if operation.flops}
    assert names == {"attention", "attention_backward"}


@pytest.mark.parametrize("name", FAMILIES)
def test_the_plan_sees_the_operations_that_run(name: str) -> None:
    """Fake tensors go through the same ones, as often, of the same sizes."""
    trained = Trained(configured(name), SHAPE, CLASSES, 256)
    timed = time_passes(trained, 3, 2, torch.device("cpu"), bfloat16=False)
    ran = Counter({Operation(*row[:3]): row.calls for row in timed.operations})
    assert ran == passes_operations(trained, 3, bfloat16=False)
    assert all(row.seconds > 0 for row in timed.operations)
    assert timed.issue_seconds is None  # the host is the device


def test_under_autocast_the_arithmetic_is_the_same() -> None:
    """The products are of bfloat16, and there are no fewer."""
    trained = Trained(configured("vdm"), SHAPE, CLASSES, 256)
    plain, cast = (passes_operations(trained, 4, bfloat16=bf) for bf in (False, True))
    flops = [sum(n * o.flops for o, n in found.items()) for found in (plain, cast)]
    assert flops[0] == flops[1] > 0
    share = sum(n * o.flops for o, n in cast.items() if o.name.endswith("bfloat16")) / flops[1]
    assert share > 0.9  # the schedule's own network stays float32
