"""Storage that fails one of two workers: what both hear of it, and when."""

from pathlib import Path
from typing import Any

import common
import torch
import torch.distributed as dist

from pipeline.checkpoint.record import committed
from pipeline.config.train import TrainConfig
from pipeline.data.manifest import DatasetInfo
from pipeline.errors import InputError
from pipeline.storage import open_storage
from pipeline.training import checkpoint
from pipeline.training.averages import start_averages
from pipeline.training.checkpoint import Checkpoints, Progress, SaveFailedError
from pipeline.training.islands import IslandWatch, check_islands
from pipeline.training.shared_storage import check_shared
from pipeline.training.worker import run_card

RUN = f"{common.FOLDER}/run"
CARD = DatasetInfo("train", common.SHAPE, common.CLASSES, ("a", "b", "c"))


def saves(config: TrainConfig, name: str, broken: set[int]) -> dict[str, Any]:
    """Save after steps 1 to 6; in `broken` ones a folder is where worker 1 wants to write."""
    engine, run = common.engine(config), open_storage(f"{common.FOLDER}/{name}")
    averages, error = start_averages(config.optimizer.ema, engine.weights()), ""
    with Checkpoints(run, config, run_card(config, CARD, "none")) as checkpoints:
        try:
            for step in range(1, 7):
                checkpoints.settle(allowed=config.checkpoint.failures_allowed)
                if step in broken:
                    file = f"rank-00001.{checkpoints._life}.safetensors"
                    folder = Path(f"{run}/checkpoint_{step:09d}/{file}/in the way")
                    folder.mkdir(parents=True, exist_ok=True)
                checkpoints.save(engine, averages, Progress(step, 8 * step), bits_per_dim=1.0)
            checkpoints.settle()
        except SaveFailedError as raised:
            error = str(raised)
    errors: list[str] = ["", ""]
    dist.all_gather_object(errors, error)
    return {"errors": errors, "steps": sorted(record.step for _, record in committed(run))}


def leaves_alone(config: TrainConfig) -> list[int]:
    """Worker 1 dies before it saves: worker 0 gives the checkpoint up and gets away."""
    checkpoint._LEAVING_SECONDS = 0.3
    engine = common.engine(config)
    run = open_storage(f"{RUN}-alone")
    averages = start_averages(config.optimizer.ema, engine.weights())
    with Checkpoints(run, config, run_card(config, CARD, "none")) as checkpoints:
        if dist.get_rank() == 0:
            checkpoints.save(engine, averages, Progress(1, 8), bits_per_dim=1.0)
    dist.barrier()
    return [record.step for _, record in committed(run)]


def not_shared() -> str:
    """What is said where each worker has a folder of its own."""
    try:
        check_shared(open_storage(f"{common.FOLDER}/own-{dist.get_rank()}"))
    except InputError as error:
        return str(error)
    return ""


def islands(config: TrainConfig) -> list[str]:
    """What is too coarse in the model as it is, and with the schedule's output rounded."""
    engine = common.engine(config)
    check_islands(engine, common.SHAPE, conditional=True)
    watch = IslandWatch(engine.model.networks)
    with torch.no_grad(), watch:
        engine.model.schedule(torch.zeros(1)).gamma.bfloat16().exp()
    watch.close()
    return watch.found


arguments = common.start()
check_shared(open_storage(RUN))
result = {
    "not shared": not_shared(),
    "left behind": open_storage(RUN).files(),
    **{f"islands {stage}": islands(config) for stage, config in arguments["bfloat16"].items()},
    "alone": leaves_alone(arguments["config"]),
}
for name, broken in arguments["broken"].items():
    result[name] = saves(arguments["config"], name, broken)
common.finish(result)
