"""How many bytes a rank of the real engine holds, and at most, at every ZeRO stage."""

import sys
from pathlib import Path

import common

sys.path.insert(0, str(Path(__file__).resolve().parents[3] / "support"))

from allocated import held_bytes, peak_bytes

from pipeline.config.train import TrainConfig
from pipeline.training.averages import start_averages, update_averages
from pipeline.training.interval import IntervalMeter
from pipeline.training.step import train_step


def measured(config: TrainConfig) -> dict[str, int]:
    """Bytes `held` between two steps, and at the `peak` of a step."""
    before = held_bytes()
    engine = common.engine(config)
    averages = start_averages(config.optimizer.ema, engine.weights())
    meter = IntervalMeter(engine.model.term_names, common.CPU)

    def step() -> None:
        train_step(engine, common.own_batches(0, config), common.settings(config), meter)
        update_averages(averages, config.optimizer.ema, 0, engine.weights())

    step()
    held = held_bytes() - before
    return {"held": held, "peak": held + peak_bytes(step)}


configs = common.start()
common.finish({name: measured(config) for name, config in configs.items()})
