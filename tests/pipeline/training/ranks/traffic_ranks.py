"""How many bytes a rank of the real engine hands to each kind of collective in a step."""

from collections import Counter
from typing import Any

import common
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.config.train import TrainConfig
from pipeline.training.interval import IntervalMeter
from pipeline.training.step import train_step


class Collectives(TorchDispatchMode):
    """As a context: the bytes of all tensors that each collective was given."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes: Counter[str] = Counter()

    def __torch_dispatch__(
        self, operation: Any, types: Any, arguments: Any = (), keywords: Any = None
    ) -> Any:
        if operation.namespace == "c10d":
            tensors = [t for t in tree_leaves(arguments) if isinstance(t, torch.Tensor)]
            name = operation._schema.name.removeprefix("c10d::").strip("_")
            self.bytes[name] += sum(t.nbytes for t in tensors)
        return operation(*arguments, **(keywords or {}))


def measured(config: TrainConfig) -> dict[str, int]:
    engine = common.engine(config)
    meter = IntervalMeter(engine.model.term_names, common.CPU)
    for number in range(2):
        with Collectives() as seen:
            train_step(engine, common.own_batches(number, config), common.settings(config), meter)
    return dict(seen.bytes)


configs = common.start()
common.finish({name: measured(config) for name, config in configs.items()})
