"""A part of a run: from the newest checkpoint of its folder, over some steps, to the next one."""

from typing import Any

import common

from pipeline.config.train import TrainConfig
from pipeline.storage import open_storage
from pipeline.training.averages import start_averages
from pipeline.training.restore import restore


def leg(run: str, config: TrainConfig, end: int) -> dict[str, Any]:
    """What the steps up to `end` gave on these ranks, at the configuration's stage."""
    engine, folder = common.engine(config), open_storage(run)
    restored = restore(engine, folder)
    first = restored[0].step if restored else 0
    averages = restored[1] if restored else start_averages(config.optimizer.ema, engine.weights())
    losses, norms = common.losses(engine, config, range(first, end), averages)
    common.save(engine, averages, end, config, folder)
    return {
        "losses": losses,
        "norms": norms,
        "weights": engine.gather(engine.weights()),
        "ema": {name: engine.gather(track) for name, track in averages.items()},
        "rates": engine.learning_rates,
    }


legs = common.start()["legs"]
common.finish({name: [leg(*arguments) for arguments in parts] for name, parts in legs.items()})
