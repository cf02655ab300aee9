"""The training loop: next -> step -> EMA -> report -> save -> stop."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from pipeline.config.train import TrainConfig
from pipeline.training.agreement import Signals, StepFeed, Word
from pipeline.training.averages import Averages, update_averages
from pipeline.training.engine import Engine
from pipeline.training.figures import Report, report
from pipeline.training.finite import FiniteWatch
from pipeline.training.interval import IntervalMeter
from pipeline.training.step import StepSettings, train_step
from vdm_core import VDM
from vdm_core.decoder import radius
from vdm_core.records import Batch


class Reporter(Protocol):
    """What the loop tells the world; every rank calls it, only rank 0 speaks."""

    def metrics(self, step: int, engine: Engine, figures: Report) -> None: ...
    def pictures(self, step: int, engine: Engine, averages: Averages) -> None: ...
    def checkpoint(
        self, step: int, engine: Engine, averages: Averages, values: dict[str, float]
    ) -> None: ...
    def snapshot(
        self, step: int, engine: Engine, averages: Averages, values: dict[str, float]
    ) -> None: ...


@dataclass(frozen=True)
class LoopState:
    """What the loop starts from: steps already done and this rank's share of the averages."""

    step: int
    averages: Averages


def train(
    engine: Engine,
    stream: Iterator[Batch],
    config: TrainConfig,
    dims: int,
    state: LoopState,
    reporter: Reporter,
    signals: Signals,
) -> int:
    """Run from `state.step` to `config.steps`, or to where `signals` stop it; return the step.

    Collective: every rank takes the same steps. Where the run stops early its state is saved.

    Args:
        stream: this rank's micro-batches, from the state's position on, endless.
        dims: what bits/dim counts, as `RunCard.dims`.

    Raises:
        NonFiniteStepError: the loss or the gradient was not finite; nothing of it is saved.
        AgreedInputError: a rank's data have failed for good (on every rank).
        PeerError: a rank's data have failed otherwise (on the others; on that rank its error).
    """
    settings = step_settings(engine, config, dims)
    meter = IntervalMeter(engine.model.term_names, engine.device)
    watch = FiniteWatch(config.seed, config.data.batch_size)
    timeout = config.cluster.collective_timeout_seconds
    feed = StepFeed(stream, config.accumulation, config.steps, signals, timeout)
    reported = state.step
    for step in range(state.step + 1, config.steps + 1):
        batches = feed.take(step)
        meter.mark("data_wait")
        terms = train_step(engine, batches, settings, meter)
        watch.add(step, batches, terms, engine.gradient_is_finite)
        update_averages(state.averages, config.optimizer.ema, step - 1, engine.weights())
        meter.mark("average")

        word = feed.settle()
        meter.mark("agreement")
        leaves = word >= Word.STOP
        hurries = word is Word.LOOK and signals.node_leaves()
        saves = leaves or hurries or step % config.checkpoint.every_steps == 0
        every = config.checkpoint.ema_every
        keeps = every is not None and step % every == 0
        draws = step == config.steps or step % config.tracking.picture_every == 0
        if saves or keeps or draws or step % config.tracking.log_every == 0:
            watch.check(engine.device)
            interval = meter.bring_together()
            figures = report(engine, interval, step - reported, config.steps - step, dims)
            reporter.metrics(step, engine, figures)
            reported = step
            meter.mark("tracking")
            if draws:
                reporter.pictures(step, engine, state.averages)
                meter.mark("pictures")
            if saves:
                reporter.checkpoint(step, engine, state.averages, figures.values)
                meter.mark("checkpoint")
            if keeps:
                reporter.snapshot(step, engine, state.averages, figures.values)
                meter.mark("checkpoint")
            settings = replace(settings, decoder_radius=decoder_radius(engine, config))
        if leaves:
            feed.raise_problem()
            return step
    return state.step  # they had all been done


def step_settings(engine: Engine, config: TrainConfig, dims: int) -> StepSettings:
    """What the steps of a run need, for as long as `decoder_radius` holds. Collective."""
    return StepSettings(
        seed=config.seed,
        global_batch=config.data.batch_size,
        dims=dims,
        conditional=config.model.conditional,
        drop_label=config.model.drop_label,
        decoder_radius=decoder_radius(engine, config),
        learns_labels=config.model.learns_labels,
    )


def decoder_radius(engine: Engine, config: TrainConfig) -> int | None:
    """Levels beside the nearest one that the decoder of a VDM looks at until this is called again.

    None for other models. A bound on γ(0) is enough, so that the steps need not wait for its
    value. AdamW moves a parameter by about its learning rate in a step; the bound allows for much
    more. Should γ(0) leave it nevertheless, the loss is NaN and the run stops. Collective at ZeRO
    stage 3.
    """
    optimizer = config.optimizer
    rate = optimizer.schedule_learning_rate or optimizer.learning_rate
    start = engine.schedule_at(torch.zeros(1))
    if start is None or not isinstance(engine.model, VDM):
        return None
    gamma_0 = float(start.gamma.max())
    return radius(gamma_0 + 0.5 + 4 * rate * config.tracking.log_every, engine.model.levels)
