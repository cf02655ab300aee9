"""How ranks leave the loop: together, or not at all."""

import math
from collections.abc import Iterator
from typing import Any

import common
import torch
import torch.distributed as dist
from torch import Tensor

from pipeline.config.train import TrainConfig
from pipeline.errors import InputError
from pipeline.training.averages import start_averages
from pipeline.training.engine import Engine
from pipeline.training.finite import NonFiniteStepError
from pipeline.training.loop import LoopState, train
from vdm_core.records import Batch

LAST = 1  # the rank that has the trouble


class Recorder:
    """Keeps what the loop reports."""

    def __init__(self) -> None:
        self.logged: dict[int, float] = {}
        self.saved: list[int] = []

    def metrics(self, step: int, engine: Any, figures: Any) -> None:
        self.logged[step] = figures.values["train/bits_per_dim"]

    def pictures(self, step: int, engine: Any, averages: Any) -> None: ...

    def checkpoint(self, step: int, engine: Any, averages: Any, values: Any) -> None:
        self.saved.append(step)


class Poisoned(Engine):
    """One rank's gradient is no number in the third step; its loss is."""

    passes = 0

    def backward(self, loss: Tensor) -> None:
        self.passes += 1
        self.kept = self.gather(self.weights()) if self.passes == 3 else getattr(self, "kept", {})
        bad = self.passes == 3 and dist.get_rank() == LAST
        super().backward(loss * math.nan if bad else loss)

    def step(self) -> None:
        super().step()
        if self.passes == 3:
            self.after = self.gather(self.weights())


def stream(config: TrainConfig, error: Exception | None = None) -> Iterator[Batch]:
    """This rank's batches; in place of the fourth, on one rank, an error."""
    for step in range(config.steps):
        if error is not None and step == 3 and dist.get_rank() == LAST:
            raise error
        yield from common.own_batches(step, config)


def fit(
    config: TrainConfig,
    signals: common.Signals | None = None,
    error: Exception | None = None,
    engine: Engine | None = None,
) -> dict[str, Any]:
    """One life of a run, as every rank saw it."""
    engine = engine or common.engine(config)
    recorder, raised, ended = Recorder(), None, None
    state = LoopState(0, start_averages(config.optimizer.ema, engine.weights()))
    try:
        signals = signals or common.Signals()
        ended = train(engine, stream(config, error), config, 64, state, recorder, signals)
    except (NonFiniteStepError, RuntimeError, InputError) as trouble:
        raised = trouble
    told: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(told, (ended, f"{type(raised).__name__}: {raised}"))
    return {
        "ended": [step for step, _ in told],
        "errors": [text for _, text in told],
        "report": getattr(raised, "report", None),
        "logged": recorder.logged,
        "saved": recorder.saved,
    }


def poisoned(config: TrainConfig) -> dict[str, Any]:
    """A run with a gradient that is no number, and what the update made of the weights."""
    engine = Poisoned(common.model(config), config, common.CPU)
    result = fit(config, engine=engine)
    same = [torch.equal(engine.kept[name], after) for name, after in engine.after.items()]
    finite = [bool(torch.isfinite(after).all()) for after in engine.after.values()]
    return result | {"unmoved": all(same), "finite": all(finite)}


configs = common.start()
whole = configs["whole"]
result = {
    "whole": fit(whole),
    "stopped": fit(whole, common.Signals(stop_after=3)),
    "node leaves": fit(whole, common.Signals(leaves_after=3)),
    "bad input": fit(whole, error=InputError("9 samples are bad")),
    "broken": fit(whole, error=RuntimeError("no such disk")),
}
result |= {name: poisoned(config) for name, config in configs.items() if name != "whole"}
common.finish(result)
