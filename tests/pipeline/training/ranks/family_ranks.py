"""Whatever is trained: two steps, the same in plain PyTorch, and what a checkpoint of it holds."""

import common

from pipeline.storage import open_storage
from pipeline.training.averages import start_averages
from pipeline.training.islands import check_islands


def run(name: str, config) -> dict:
    engine = common.engine(config)
    check_islands(engine, common.SHAPE, config.model.conditional)
    averages = start_averages(config.optimizer.ema, engine.weights())
    losses, _ = common.losses(engine, config, range(2), averages)
    weights = engine.gather(engine.weights())
    common.save(engine, averages, 2, config, open_storage(f"{common.FOLDER}/{name}"))
    return {"losses": losses, "weights": weights, "reference": common.reference(config, 2)}


common.finish({name: run(name, config) for name, config in common.start().items()})
