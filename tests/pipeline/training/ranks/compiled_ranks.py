"""The same steps with and without torch.compile; how often it compiled."""

from typing import Any

import common
import torch
from torch._dynamo.utils import counters

from pipeline.config.train import TrainConfig
from pipeline.training.islands import check_islands

STEPS = 4


def run(config: TrainConfig) -> dict[str, Any]:
    engine = common.engine(config)
    check_islands(engine, common.SHAPE, config.model.conditional)
    before = counters["stats"]["unique_graphs"]
    first, _ = common.losses(engine, config, range(1))
    graphs = counters["stats"]["unique_graphs"] - before
    with torch._dynamo.config.patch(error_on_recompile=True):
        later, norms = common.losses(engine, config, range(1, STEPS))
    return {
        "losses": first + later,
        "norms": norms,
        "graphs": graphs,
        "later_graphs": counters["stats"]["unique_graphs"] - before - graphs,
        "breaks": dict(counters["graph_break"]),
        "keys": sorted(engine.model.state_dict()),
        "fragments": sorted(fragment.name for fragment in engine.fragments("weights")),
    }


common.finish({name: run(config) for name, config in common.start().items()})
