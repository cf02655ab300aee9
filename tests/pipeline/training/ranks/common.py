"""What the scripts that run on several ranks share. Each is started once per rank."""

import math
import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from pipeline.config.model import ModelConfig
from pipeline.config.train import TrainConfig
from pipeline.data.manifest import DatasetInfo
from pipeline.model.family import Model, build_family, read_given
from pipeline.storage import Location
from pipeline.training.agreement import Word
from pipeline.training.averages import Averages, update_averages
from pipeline.training.checkpoint import Checkpoints, Progress
from pipeline.training.engine import Engine
from pipeline.training.interval import IntervalMeter
from pipeline.training.optimizer import adamw, learning_rate_scale
from pipeline.training.step import StepSettings, train_step, training_draws
from pipeline.training.worker import run_card
from vdm_core.decoder import radius
from vdm_core.records import Batch

FOLDER = Path(sys.argv[1])
SHAPE, CLASSES = (1, 8, 8), 3
CPU = torch.device("cpu")


class Signals:
    """What reaches the loop: a wish to stop after a step, a node that leaves after another."""

    def __init__(self, stop_after: int | None = None, leaves_after: int | None = None) -> None:
        self.stop_after, self.leaves_after = stop_after, leaves_after

    def word(self, step: int) -> Word:
        here = dist.get_rank() == dist.get_world_size() - 1  # one rank knows; all must follow
        if here and step == self.stop_after:
            return Word.STOP
        return Word.LOOK if here and step == self.leaves_after else Word.GO_ON

    def node_leaves(self) -> bool:
        return True


def start() -> Any:
    """Join the other ranks; return the arguments of `launch`."""
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{FOLDER}/store",
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    return torch.load(FOLDER / "arguments.pt", weights_only=False)


def finish(result: Any) -> None:
    """Rank 0 hands over the result of the whole run."""
    if dist.get_rank() == 0:
        torch.save(result, FOLDER / "result.pt")
    dist.barrier()
    dist.destroy_process_group()


def model(config: TrainConfig) -> Model:
    """The model that the configuration describes."""
    given = read_given(config)
    return build_family(config.model, SHAPE, CLASSES, config.seed, levels=256, given=given)


def engine(config: TrainConfig) -> Engine:
    """A fresh engine around it."""
    return Engine(model(config), config, CPU)


def settings(config: TrainConfig) -> StepSettings:
    """The settings of a step."""
    return StepSettings(
        seed=config.seed,
        global_batch=config.data.batch_size,
        conditional=config.model.conditional,
        drop_label=config.model.drop_label,
        dims=1 if config.model.learns_labels else 64,
        decoder_radius=reach(config),
        learns_labels=config.model.learns_labels,
    )


def reach(config: TrainConfig) -> int | None:
    """The decoder radius that a VDM trains with here."""
    if not isinstance(config.model, ModelConfig):
        return None
    return radius(config.model.schedule.gamma_0 + 1, 256)


def batch(indices: list[int]) -> Batch:
    """Images and labels that depend on the global sample indices alone."""

    def image(index: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(index)
        return torch.randint(0, 256, SHAPE, generator=generator, dtype=torch.uint8)

    return Batch(
        images=torch.stack([image(index) for index in indices]),
        labels=torch.tensor([index % CLASSES for index in indices]),
        indices=torch.tensor(indices),
        valid=torch.tensor([index % 11 != 3 for index in indices]),
        keys=tuple(str(index) for index in indices),
    )


def own_batches(step: int, config: TrainConfig) -> list[Batch]:
    """This rank's micro-batches of a step."""
    size, rank, world = config.data.batch_size, dist.get_rank(), dist.get_world_size()
    own = [*range(step * size + rank, (step + 1) * size, world)]
    return [batch(own[i : i + config.micro_batch]) for i in range(0, len(own), config.micro_batch)]


def losses(
    engine: Engine, config: TrainConfig, steps: range, averages: Averages | None = None
) -> tuple[list[float], list[float]]:
    """Mean bits/dim and gradient norm of each step."""
    meter, found, norms = IntervalMeter(engine.model.term_names, CPU), [], []
    for step in steps:
        train_step(engine, own_batches(step, config), settings(config), meter)
        nats = sum(meter.bring_together().nats.values())
        found.append(nats / (settings(config).dims * math.log(2)))
        norms.append(engine.gradient_norm)
        if averages is not None:
            update_averages(averages, config.optimizer.ema, step, engine.weights())
    return found, norms


def save(engine: Engine, averages: Averages, step: int, config: TrainConfig, run: Location) -> None:
    """A checkpoint after `step`, committed."""
    info = DatasetInfo("train", SHAPE, CLASSES, ("a", "b", "c"))
    card = run_card(config, info, "none", read_given(config))
    with Checkpoints(run, config, card) as checkpoints:
        progress = Progress(step, step * config.data.batch_size)
        checkpoints.save(engine, averages, progress, bits_per_dim=1.0)
        checkpoints.settle()


def reference(config: TrainConfig, steps: int) -> dict[str, Any]:
    """The same run in plain PyTorch, in one process, on whole batches."""
    vdm = model(config)
    optimizer = adamw(vdm, config.optimizer)
    rates = [group["lr"] for group in optimizer.param_groups]
    start = {n: p.detach().double() for n, p in vdm.named_parameters()}
    averages = {average.name: dict(start) for average in config.optimizer.ema}
    losses, norms, clip = [], [], config.optimizer.gradient_clipping
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * learning_rate_scale(step, config.optimizer, config.steps)
        size = config.data.batch_size
        whole = batch([*range(step * size, (step + 1) * size)])
        labels, draws = training_draws(vdm.draws(SHAPE), whole, settings(config), CPU)
        bits = vdm(whole.images, labels, **draws).bits_per_dim(settings(config).dims)
        loss = torch.where(whole.valid, bits, 0.0).mean()
        optimizer.zero_grad()
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(vdm.parameters(), clip or 1e9)))
        optimizer.step()
        losses.append(float(bits.detach()[whole.valid].mean()))
        for average in config.optimizer.ema:
            decay, whole_ones = average.decay_at(step), averages[average.name]
            for name, parameter in vdm.named_parameters():
                new = parameter.detach().double()
                whole_ones[name] = decay * whole_ones[name] + (1 - decay) * new
    return {
        "losses": losses,
        "norms": norms,
        "ema": averages,
        "weights": {n: p.detach() for n, p in vdm.named_parameters()},
        "moments": {
            kind: {n: optimizer.state[p][kind] for n, p in vdm.named_parameters()}
            for kind in ("exp_avg", "exp_avg_sq")
        },
    }
