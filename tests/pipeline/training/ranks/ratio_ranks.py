"""Training steps beside the same arithmetic with less around it, timed in turns.

Times are pairs of seconds: by the clock, and of this process's CPU time, which other work on the
machine hardly touches.

One rank: the whole line (stream, engine, averages, meters, tracking) beside a bare loop, and the
engine at each ZeRO stage beside plain torch. Two ranks: stage by stage beside ranks that are alone.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing

import common
import torch
import torch.distributed as dist

from pipeline.config.train import TrainConfig
from pipeline.data.mixture import open_mixture
from pipeline.model.family import build_family
from pipeline.storage import open_storage
from pipeline.tracking import Tracker, open_run, prepare_store, store_uri
from pipeline.training.averages import start_averages
from pipeline.training.checkpoint import Checkpoints
from pipeline.training.compute_cost import compute_cost
from pipeline.training.engine import Engine
from pipeline.training.interval import IntervalMeter
from pipeline.training.loop import LoopState, step_settings, train
from pipeline.training.narrator import Narrator
from pipeline.training.optimizer import adamw
from pipeline.training.reporter import RunReporter
from pipeline.training.step import train_step
from pipeline.training.worker import TrainJob, run_card, training_stream
from vdm_core.family import keyed_draws
from vdm_core.records import Batch

STAGES, ROUNDS = (0, 1, 2), 5
Step = Callable[[], object]


def now() -> torch.Tensor:
    """(2,) float64: the clock, and the CPU time of all threads."""
    return torch.tensor([time.perf_counter(), time.process_time()], dtype=torch.float64)


class WithoutPictures(RunReporter):
    """A training run's reporter; pictures and checkpoints belong to no step."""

    def pictures(self, *arguments: object) -> None: ...

    def checkpoint(self, *arguments: object) -> None: ...

    def snapshot(self, *arguments: object) -> None: ...


class Between:
    """A stream that, between two steps of whoever reads it, takes and times another step.

    What passes from one such step to the next is the reader's: waiting for data, its own step,
    and whatever it does after it.
    """

    def __init__(self, stream: Iterator[Batch], other: Step) -> None:
        self.stream, self.other = stream, other
        self.readers: list[torch.Tensor] = []
        self.others: list[torch.Tensor] = []
        self.last = now()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        batch = next(self.stream)
        began = now()
        self.other()
        ended = now()
        self.readers.append(began - self.last)
        self.others.append(ended - began)
        self.last = ended
        return batch


def plain_step(config: TrainConfig, batch: Batch, *, keyed: bool) -> Step:
    """A loop that a person writes in a notebook: torch's AdamW, one batch for ever.

    With torch's own noise and times or, if `keyed`, with those that belong to the examples.
    """
    vdm = build_family(config.model, batch.images.shape[1:], 10, config.seed, 256)
    optimizer = adamw(vdm, config.optimizer)
    lower = config.deepspeed.precision == "bfloat16"
    radius = common.radius(config.model.schedule.gamma_0 + 1, 256)
    needs = vdm.draws(tuple(batch.images.shape[1:])) if keyed else {}

    def step() -> None:
        optimizer.zero_grad()
        draws = keyed_draws(needs, config.seed, batch.indices, len(batch.images))
        with torch.autocast("cpu", torch.bfloat16, enabled=lower):
            terms = vdm(batch.images, batch.labels, **draws, decoder_radius=radius)
        terms.bits_per_dim(batch.images[0].numel()).mean().backward()
        torch.nn.utils.clip_grad_norm_(vdm.parameters(), config.optimizer.gradient_clipping)
        optimizer.step()

    return step


def engine_step(config: TrainConfig, batch: Batch) -> Step:
    """The step of this project on one batch for ever."""
    vdm = build_family(config.model, batch.images.shape[1:], 10, config.seed, 256)
    engine = Engine(vdm, config, common.CPU)
    meter = IntervalMeter(engine.model.term_names, common.CPU)
    settings = step_settings(engine, config, batch.images[0].numel())
    return lambda: train_step(engine, [batch], settings, meter)


def in_turns(sides: dict[str, Step]) -> dict[str, list[torch.Tensor]]:
    """Times of each side in each round, after two rounds to warm up; ranks begin together."""
    times: dict[str, list[torch.Tensor]] = {name: [] for name in sides}
    for _ in range(ROUNDS + 2):
        for name, side in sides.items():
            dist.barrier()
            began = now()
            side()
            times[name].append(now() - began)
    return {name: found[2:] for name, found in times.items()}


def whole_line(config: TrainConfig) -> dict[str, list[torch.Tensor]]:
    """A training run beside the bare loop: mean times of a step in each logging interval."""
    mixture = open_mixture(config.train_paths, config.data)
    card, run = run_card(config, mixture.info, "none"), open_storage(config.path("run"))
    uri = store_uri(None, config.path("tracking"))
    prepare_store(uri)
    tracker = Tracker(uri, open_run(uri, "speed", "speed", {}), config.path("journal.jsonl"))
    vdm = build_family(config.model, card.shape, card.classes, config.seed, card.levels)
    cost = compute_cost(vdm, card.shape, config, common.CPU, 1)
    engine = Engine(vdm, config, common.CPU)
    job = TrainJob(config, config.train_paths, str(run), "", "", "", 0.0)
    with (
        closing(tracker),
        Checkpoints(run, config, card) as checkpoints,
        closing(training_stream(job, mixture, 0)) as stream,
    ):
        narrator = Narrator(tracker, config, card, cost, vdm.term_names)
        narrator.begin(time.time(), time.time(), 0)
        reporter = WithoutPictures(config, card, stream, narrator, checkpoints, checkpoints)
        batches = iter(stream)
        between = Between(batches, plain_step(config, next(batches), keyed=False))
        state = LoopState(0, start_averages(config.optimizer.ema, engine.weights()))
        train(engine, between, config, card.dims, state, reporter, common.Signals())
    every = config.tracking.log_every
    return {
        name: [*torch.stack(found[every:]).unflatten(0, (-1, every)).mean(1)]
        for name, found in (("whole", between.readers), ("bare", between.others))
    }


def stages(config: TrainConfig) -> dict[str, list[torch.Tensor]]:
    """The engine at each stage, and plain torch on each rank for itself."""
    mixture = open_mixture(config.train_paths, config.data)
    job = TrainJob(config, config.train_paths, "", "", "", "", 0.0)
    with closing(training_stream(job, mixture, 0)) as stream:
        batch = next(iter(stream))
    sides = {"plain": plain_step(config, batch, keyed=True)}
    for stage in STAGES:
        deepspeed = config.deepspeed.model_copy(update={"zero_stage": stage})
        staged = config.model_copy(update={"deepspeed": deepspeed})
        sides[f"stage {stage}"] = engine_step(staged, batch)
    return in_turns(sides)


config = common.start()["config"]
found = stages(config)
if dist.get_world_size() == 1:
    found |= whole_line(config)
common.finish({name: torch.stack(times) for name, times in found.items()})
