"""The first update of every configuration, and what autograd says it should be."""

import math
from collections.abc import Callable

import common
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.config.train import TrainConfig
from pipeline.training.interval import IntervalMeter
from pipeline.training.step import train_step, training_draws
from vdm_core.records import ElboTerms


def first_update(config: TrainConfig) -> dict[str, Tensor]:
    """New minus old weights, through the engine on all ranks; on rank 0."""
    engine = common.engine(config)
    before = engine.gather(engine.weights())
    batches = common.own_batches(0, config)
    train_step(
        engine, batches, common.settings(config), IntervalMeter(ElboTerms._fields, common.CPU)
    )
    after = engine.gather(engine.weights())
    return {name: after[name] - before[name] for name in after}


def expected_update(config: TrainConfig) -> dict[str, Tensor]:
    """The same in one process: the ELBO's gradient, but for the shape the mean of 2 L grad L."""
    schedule = config.model.schedule.model_copy(update={"objective": "elbo"})
    plain = config.model_copy(
        update={"model": config.model.model_copy(update={"schedule": schedule})}
    )
    vdm = common.model(plain)
    whole = common.batch([*range(config.data.batch_size)])
    labels, draws = training_draws(
        vdm.draws(common.SHAPE), whole, common.settings(config), common.CPU
    )
    terms = vdm(whole.images, labels, **draws)
    dims = math.prod(common.SHAPE)

    loss = torch.where(whole.valid, terms.bits_per_dim(dims), 0.0).mean()
    gradients = _gradients(loss, dict(vdm.named_parameters()))
    shape = {n: p for n, p in vdm.named_parameters() if n.startswith("schedule.warp.")}
    gradients |= {name: torch.zeros_like(parameter) for name, parameter in shape.items()}
    for bits, valid in zip(terms.diffusion / (dims * math.log(2)), whole.valid, strict=True):
        if valid:
            for name, gradient in _gradients(bits, shape).items():
                gradients[name] += 2 * bits.detach() * gradient / len(whole.valid)
    adam = _first_step_of_adam(config)
    return {name: adam(gradient) for name, gradient in gradients.items()}


def _gradients(loss: Tensor, parameters: dict[str, Tensor]) -> dict[str, Tensor]:
    parts = torch.autograd.grad(loss, list(parameters.values()), retain_graph=True)
    return dict(zip(parameters, parts, strict=True))


def _first_step_of_adam(config: TrainConfig) -> Callable[[Tensor], Tensor]:
    rate, eps = config.optimizer.learning_rate, config.optimizer.eps
    return lambda gradient: -rate * gradient / (gradient.abs() + eps)


configs = common.start()
result = {name: {"update": first_update(config)} for name, config in configs.items()}
if dist.get_rank() == 0:
    for name, config in configs.items():
        result[name]["expected"] = expected_update(config)
common.finish(result)
