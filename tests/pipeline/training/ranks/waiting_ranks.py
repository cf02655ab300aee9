"""Which lines of a training step look at a tensor's value, at every ZeRO stage."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import common
from torch.utils._python_dispatch import TorchDispatchMode

from pipeline.config.train import TrainConfig
from pipeline.training.averages import start_averages, update_averages
from pipeline.training.finite import FiniteWatch
from pipeline.training.interval import IntervalMeter
from pipeline.training.step import train_step

LOOKS = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero")


class Looks(TorchDispatchMode):
    """Collects who asks for the value of a tensor, as file and function."""

    def __init__(self) -> None:
        super().__init__()
        self.found: set[str] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if func.overloadpacket.__name__ in LOOKS:
            frames = [f for f in traceback.extract_stack()[:-1] if "/torch/" not in f.filename]
            self.found.add(f"{Path(frames[-1].filename).name}:{frames[-1].name}")
        return func(*args, **(kwargs or {}))


def looks(work: Callable[[], object]) -> set[str]:
    with Looks() as mode:
        work()
    return mode.found


def run(config: TrainConfig) -> dict[str, set[str]]:
    """What a step and all that the loop does with it looks at, and what a report looks at."""
    engine = common.engine(config)
    meter = IntervalMeter(engine.model.term_names, common.CPU)
    watch = FiniteWatch(config.seed, config.data.batch_size)
    averages = start_averages(config.optimizer.ema, engine.weights())

    settings = common.settings(config)

    def step(number: int) -> None:
        batches = common.own_batches(number, config)
        terms = train_step(engine, batches, settings, meter)
        watch.add(number, batches, terms, engine.gradient_is_finite)
        update_averages(averages, config.optimizer.ema, number, engine.weights())

    step(0)
    return {
        "step": looks(lambda: step(1)),
        "report": looks(lambda: watch.check(common.CPU)) | looks(lambda: engine.gradient_norm),
    }


common.finish({name: run(config) for name, config in common.start().items()})
