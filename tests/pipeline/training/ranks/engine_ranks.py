"""Train at every ZeRO stage in one pair of processes; take the state apart; save and go on."""

import common
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.checkpoint.fragment import MOMENTS, WEIGHTS
from pipeline.config.train import TrainConfig
from pipeline.storage import open_storage
from pipeline.training.averages import start_averages
from pipeline.training.engine import Engine
from pipeline.training.restore import restore

MORE = 2


def run(name: str, config: TrainConfig) -> dict:
    steps = 6 if config.deepspeed.precision == "float32" else 2
    engine = common.engine(config)
    gamma = engine.schedule_at(torch.tensor([0.0, 1.0])).gamma
    averages = start_averages(config.optimizer.ema, engine.weights())
    found, norms = common.losses(engine, config, range(steps), averages)
    weights = engine.gather(engine.weights())
    ema = {average: engine.gather(tensors) for average, tensors in averages.items()}
    moments = {
        kind: engine.gather([fragment.tensor for fragment in engine.fragments(kind)])
        for kind in MOMENTS
    }
    run = open_storage(f"{common.FOLDER}/{name}")
    common.save(engine, averages, steps, config, run)
    kept = {average: [t.clone() for t in tensors] for average, tensors in averages.items()}
    undisturbed, _ = common.losses(engine, config, range(steps, steps + MORE))
    fresh = common.engine(config)
    progress, found_averages = restore(fresh, run)
    same_averages = all(
        torch.equal(a, b)
        for average in kept
        for a, b in zip(kept[average], found_averages[average], strict=True)
    )
    resumed, _ = common.losses(fresh, config, range(steps, steps + MORE))
    return {
        "losses": found,
        "norms": norms,
        "gamma": gamma,
        "dtypes": {str(p.dtype) for p in engine.model.parameters()},
        "weights": weights,
        "ema": ema,
        "moments": moments,
        "coverage": coverage(engine, config),
        "undisturbed": undisturbed,
        "resumed": resumed,
        "from": progress.step,
        "same_averages": same_averages,
        "rates": engine.learning_rates,
        "finite": bool(engine.gradient_is_finite),
        "state_keys": sorted(common.model(config).state_dict()),
    }


def coverage(engine: Engine, config: TrainConfig) -> dict[str, dict[str, Tensor]]:
    """How often each element of each parameter occurs among all ranks' fragments, by kind."""
    counts = {}
    shapes = {name: p.shape for name, p in common.model(config).named_parameters()}
    for kind in (WEIGHTS, *MOMENTS):
        counts[kind] = {name: torch.zeros(shape) for name, shape in shapes.items()}
        for name, offset, tensor in engine.fragments(kind):
            counts[kind][name].view(-1)[offset : offset + len(tensor)] += 1
        for count in counts[kind].values():
            dist.all_reduce(count)
    return counts


configs = common.start()
result = {name: run(name, config) for name, config in configs.items()}
for name, config in configs.items():
    if dist.get_rank() == 0 and name.startswith("1 ") and name != "1 bfloat16":
        result[f"reference {name[2:]}"] = common.reference(config, 6)
common.finish(result)
