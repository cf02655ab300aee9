"""The training loop on real shards: interrupted, damaged, poisoned; on one worker and on two."""

import json
import math
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import common
import torch
import torch.distributed as dist

from pipeline.config.train import TrainConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.mixture import single
from pipeline.storage import open_storage
from pipeline.training.agreement import AgreedInputError
from pipeline.training.averages import start_averages
from pipeline.training.checkpoint import Checkpoints, Progress
from pipeline.training.figures import Report
from pipeline.training.interval import IntervalMeter
from pipeline.training.loop import LoopState, train
from pipeline.training.restore import restore
from pipeline.training.step import train_step
from pipeline.training.worker import TrainJob, run_card, training_stream
from vdm_core.records import ElboTerms


class InterruptedRunError(Exception):
    """What a killed process is to the loop."""


class Recorder:
    """Keeps what the loop reports; saves real checkpoints."""

    def __init__(self, config: TrainConfig, checkpoints: Checkpoints, stop: int | None) -> None:
        self.config, self.checkpoints, self.stop = config, checkpoints, stop
        self.values: dict[int, dict[str, float]] = {}
        self.pictured: list[int] = []
        self.saved: list[int] = []

    def metrics(self, step: int, engine: Any, figures: Report) -> None:
        timed = ("train/images_per_second", "train/step_seconds", "train/seconds_left")
        timed += ("time/", "time_slowest_rank/", "memory/")
        values = figures.values.items()
        self.values[step] = {name: v for name, v in values if not name.startswith(timed)}
        if step == self.stop:
            raise InterruptedRunError

    def pictures(self, step: int, engine: Any, averages: Any) -> None:
        self.pictured.append(step)

    def checkpoint(self, step: int, engine: Any, averages: Any, values: Any) -> None:
        self.saved.append(step)
        progress = Progress(step, step * self.config.data.batch_size)
        self.checkpoints.save(engine, averages, progress, values["train/bits_per_dim"])


def fit(
    config: TrainConfig, run: str, stop: int | None = None, poison: bool = False
) -> dict[str, Any]:
    """One life of a run: from its newest checkpoint to the end, to `stop`, or to an error."""
    job = TrainJob(config, config.train_paths, run, "", "", "", 0.0)
    mixture, at = single(open_dataset(*job.data)), open_storage(run)
    engine = common.engine(config)
    restored = restore(engine, at)
    progress, averages = restored or (
        Progress(0, 0),
        start_averages(config.optimizer.ema, engine.weights()),
    )
    if poison:
        next(engine.model.parameters()).data.view(-1)[0] = math.nan
    stream = training_stream(job, mixture, progress.next_index)
    error, card = "", run_card(config, mixture.info, "none")
    with closing(stream), Checkpoints(at, config, card) as checkpoints:
        recorder, state = Recorder(config, checkpoints, stop), LoopState(progress.step, averages)
        try:
            train(engine, iter(stream), config, 64, state, recorder, common.Signals())
            checkpoints.settle()
        except (FloatingPointError, InterruptedRunError) as raised:
            error = f"{type(raised).__name__}: {raised}"
    dist.barrier()
    return {
        "from": progress.step,
        "error": error,
        "values": recorder.values,
        "pictured": recorder.pictured,
        "saved": recorder.saved,
        "folders": at.folders(),
        "weights": engine.gather(engine.weights()),
        "ema": {average: engine.gather(tensors) for average, tensors in averages.items()},
        "bad": stream.bad_samples.total(),
    }


def invalid_is_ignored(config: TrainConfig) -> bool:
    """Whether two runs are one where only the images of invalid examples differ."""
    weights = []
    for garbage in (0, 255):
        engine, meter = common.engine(config), IntervalMeter(ElboTerms._fields, common.CPU)
        for step in range(2):
            batches = [
                replace(b, images=torch.where(b.valid[:, None, None, None], b.images, garbage))
                for b in common.own_batches(step, config)
            ]
            train_step(engine, batches, common.settings(config), meter)
        weights.append(
            [
                *engine.gather(engine.weights()).values(),
                torch.tensor([*meter.bring_together().nats.values()]),
            ]
        )
    return all(torch.equal(a, b) for a, b in zip(*weights, strict=True))


def restored_step(config: TrainConfig, run: str, damage: Callable[[Path], None]) -> Any:
    """The step that `restore` finds in a copy of the run with its newest checkpoint damaged."""
    copy = Path(run + "-damaged")
    if dist.get_rank() == 0:
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        damage(copy / "checkpoint_000000006")
    dist.barrier()
    try:
        found = restore(ENGINE, open_storage(str(copy)))
    except AgreedInputError as error:
        return str(error)
    finally:
        dist.barrier()
    return found[0].step if found else None


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def state_file(folder: Path) -> Path:
    return next(folder.glob("rank-00001.*.safetensors"))


def damage_all(folder: Path) -> None:
    for checkpoint in folder.parent.glob("checkpoint_*"):
        flip(state_file(checkpoint))


def future_commit(folder: Path) -> None:
    record = json.loads((folder / "checkpoint.json").read_text())
    (folder / "checkpoint.json").write_text(json.dumps(record | {"format": 99}))


DAMAGES: dict[str, Callable[[Path], None]] = {
    "nothing": lambda folder: None,
    "flipped byte": lambda folder: flip(state_file(folder)),
    "truncated": lambda folder: state_file(folder).write_bytes(b"short"),
    "missing": lambda folder: state_file(folder).unlink(),
    "no commit": lambda folder: (folder / "checkpoint.json").unlink(),
    "unreadable commit": lambda folder: flip(folder / "checkpoint.json"),
    "foreign commit": future_commit,
    "all": damage_all,
    "none left": lambda folder: [shutil.rmtree(c) for c in folder.parent.glob("checkpoint_*")],
}

arguments = common.start()
result = {name: fit(config, f"{common.FOLDER}/{name}") for name, config in arguments.items()}
if dist.get_world_size() == 1:
    result["invalid is ignored"] = invalid_is_ignored(arguments["whole"])
else:
    whole = arguments["whole"]
    here = f"{common.FOLDER}/interrupted"
    result["first life"] = fit(whole, here, stop=5)
    result["second life"] = fit(whole, here)
    ENGINE = common.engine(whole)
    result["restored"] = {name: restored_step(whole, here, f) for name, f in DAMAGES.items()}
    restored_step(whole, here, DAMAGES["flipped byte"])
    result["beside a damaged one"] = fit(arguments["keeps one"], here + "-damaged")
    result["poisoned"] = fit(whole, f"{common.FOLDER}/poisoned", poison=True)
    stage_0 = whole.model_copy(
        update={"deepspeed": whole.deepspeed.model_copy(update={"zero_stage": 0})}
    )
    result["poisoned at stage 0"] = fit(stage_0, f"{common.FOLDER}/poisoned-0", poison=True)
common.finish(result)
