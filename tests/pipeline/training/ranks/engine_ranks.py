"""Train at every ZeRO stage in one pair of processes; take the state apart; save and go on."""

import common
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.config.train import TrainConfig
from pipeline.training.averages import start_averages, update_averages
from pipeline.training.engine import Engine
from pipeline.training.fragments import MOMENTS, WEIGHTS
from pipeline.training.interval import IntervalMeter
from pipeline.training.step import train_step

MORE = 2


def losses(engine: Engine, config: TrainConfig, steps: range, averages=None) -> tuple[list, list]:
    """Mean bits/dim and gradient norm of each step."""
    meter, found, norms = IntervalMeter(engine.vdm.term_names, common.CPU), [], []
    for step in steps:
        batches = common.own_batches(step, config)
        train_step(engine, batches, common.settings(config), meter)
        nats = sum(meter.bring_together().nats.values())
        found.append(nats / (64 * torch.log(torch.tensor(2.0)).item()))
        norms.append(engine.gradient_norm)
        if averages is not None:
            update_averages(averages, config.optimizer.ema, step, engine.weights())
    return found, norms


def run(name: str, config: TrainConfig) -> dict:
    steps = 6 if config.deepspeed.precision == "float32" else 2
    engine = common.engine(config)
    gamma = engine.schedule_at(torch.tensor([0.0, 1.0])).gamma
    averages = start_averages(config.optimizer.ema, engine.weights())
    found, norms = losses(engine, config, range(steps), averages)
    weights = engine.gather(engine.weights())
    ema = {average: engine.gather(tensors) for average, tensors in averages.items()}
    moments = {
        kind: engine.gather([fragment.tensor for fragment in engine.fragments(kind)])
        for kind in MOMENTS
    }
    engine.save(common.FOLDER / name)
    dist.barrier()
    undisturbed, _ = losses(engine, config, range(steps, steps + MORE))
    fresh = common.engine(config)
    fresh.load(common.FOLDER / name)
    resumed, _ = losses(fresh, config, range(steps, steps + MORE))
    return {
        "losses": found,
        "norms": norms,
        "gamma": gamma,
        "dtypes": {str(p.dtype) for p in engine.vdm.parameters()},
        "weights": weights,
        "ema": ema,
        "moments": moments,
        "coverage": coverage(engine, config),
        "undisturbed": undisturbed,
        "resumed": resumed,
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


def refuses_empty(config: TrainConfig) -> str:
    try:
        common.engine(config).load(common.FOLDER / "nothing")
    except RuntimeError as error:
        return str(error)
    return ""


configs = common.start()
result = {name: run(name, config) for name, config in configs.items()}
result["empty"] = {
    config.deepspeed.zero_stage: refuses_empty(config)
    for name, config in configs.items()
    if name.endswith("linear")
}
for name, config in configs.items():
    if dist.get_rank() == 0 and name.startswith("1 ") and name != "1 bfloat16":
        result[f"reference {name[2:]}"] = common.reference(config, 6)
common.finish(result)
