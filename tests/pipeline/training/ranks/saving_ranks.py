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
from pipeline.training.worker import model_card

RUN = f"{common.FOLDER}/run"
CARD = DatasetInfo("train", common.SHAPE, common.CLASSES, ("a", "b", "c"))


def in_the_way(step: int) -> Path:
    """A file where worker 1 wants a folder."""
    return Path(f"{RUN}-of-1/checkpoint_{step:09d}")


def saves(config: TrainConfig, broken: set[int]) -> dict[str, Any]:
    """Save after steps 1 to 6, where the storage of worker 1 refuses those in `broken`.

    Worker 1's folder is a link to worker 0's, except for the broken ones.
    """
    engine, rank = common.engine(config), dist.get_rank()
    averages = start_averages(config.optimizer.ema, engine.weights())
    run = open_storage(RUN if rank == 0 else f"{RUN}-of-1")
    if rank == 1:
        Path(run.path).mkdir()
        for step in range(1, 7):
            shared = Path(f"{RUN}/checkpoint_{step:09d}")
            if step in broken:
                in_the_way(step).write_bytes(b"")
            else:
                shared.mkdir(parents=True, exist_ok=True)
                in_the_way(step).symlink_to(shared)
    dist.barrier()
    error = ""
    with Checkpoints(run, config, model_card(config, CARD, "none")) as checkpoints:
        try:
            for step in range(1, 7):
                checkpoints.save(engine, averages, Progress(step, 8 * step), bits_per_dim=1.0)
            checkpoints.settle()
        except SaveFailedError as raised:
            error = str(raised)
    errors: list[str] = ["", ""]
    dist.all_gather_object(errors, error)
    found = committed(open_storage(RUN))
    return {"errors": errors, "steps": sorted(record.step for _, record in found)}


def leaves_alone(config: TrainConfig) -> list[int]:
    """Worker 1 dies before it saves: worker 0 gives the checkpoint up and gets away."""
    checkpoint._LEAVING_SECONDS = 0.3
    engine = common.engine(config)
    run = open_storage(f"{RUN}-alone")
    averages = start_averages(config.optimizer.ema, engine.weights())
    with Checkpoints(run, config, model_card(config, CARD, "none")) as checkpoints:
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
    check_islands(engine, common.SHAPE)
    watch = IslandWatch(engine.vdm.network)
    with torch.no_grad(), watch:
        engine.vdm.schedule(torch.zeros(1)).gamma.bfloat16().exp()
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
    RUN = f"{common.FOLDER}/{name}"
    result[name] = saves(arguments["config"], broken)
common.finish(result)
