"""One rank never comes to the collectives of a step: what does the other learn?"""

import time

import common
import torch.distributed as dist

from pipeline.config.train import TrainConfig
from pipeline.training.interval import IntervalMeter
from pipeline.training.step import train_step


def error_of_a_lonely_step(config: TrainConfig) -> str:
    """What rank 0 raises in a step without rank 1, which waits until it has."""
    engine, told = common.engine(config), common.FOLDER / "told"
    if dist.get_rank() == 1:
        while not told.exists():
            time.sleep(0.05)
        return ""
    meter = IntervalMeter(engine.model.term_names, common.CPU)
    try:
        train_step(engine, common.own_batches(0, config), common.settings(config), meter)
    except RuntimeError as error:
        return f"{error}"
    finally:
        told.touch()
    return "no error"


common.finish(error_of_a_lonely_step(common.start()["config"]))
