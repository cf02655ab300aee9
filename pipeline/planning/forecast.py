"""One training run on one number of GPUs: what a step takes, what is kept of it, what it costs."""

from dataclasses import dataclass
from typing import NamedTuple

from pipeline.config.plan import HardwareConfig
from pipeline.planning.communication import Links, Message, step_traffic, traffic_seconds
from pipeline.planning.goodput import Faults, best_interval, goodput, job_mtbf
from pipeline.planning.memory import DeviceMemory, Sharding

_GB, _HOUR = 1e9, 3600.0


@dataclass(frozen=True)
class Workload:
    """What a run consists of, wherever it runs.

    `flops`: of training on one image, forward and backward. `images`: of the whole run.
    `image_bytes`: of an image in its shard. `update_seconds`: of optimizer and averages, for each
    element that a GPU updates.
    """

    parameters: int
    flops: int
    images: int
    image_bytes: float
    update_seconds: float
    message: Message


class StepLoad(NamedTuple):
    """What there is to do in a step: `batch` images of all GPUs, `passes` seconds of each GPU.

    `reads`: how often each image is read, all workers together.
    """

    batch: int
    passes: float
    reads: int


class Forecast(NamedTuple):
    """The plan for `gpus` GPUs. Times are in seconds, sizes in bytes.

    `step` is computing, updating and communicating one after the other, or waiting for the data if
    that takes longer; `bound` names the greatest of the four. `interval` is the best time between
    checkpoints, `stall` how long each stops the training, `write` until it is safe.
    """

    gpus: int
    batch: int
    steps: int
    memory: DeviceMemory
    compute: float
    update: float
    communication: float
    data: float
    step: float
    bound: str
    images_per_second: float
    reads_per_image: int
    shard_bytes_per_second: float
    checkpoint_bytes: float
    stall: float
    write: float
    mtbf: float
    interval: float
    goodput: float
    days: float
    cost: float


def forecast(
    work: Workload,
    load: StepLoad,
    sharding: Sharding,
    memory: DeviceMemory,
    hardware: HardwareConfig,
) -> Forecast:
    """Plan `work` on `sharding.workers` GPUs, with `load` to do in each step."""
    gpus, batch, steps = sharding.workers, load.batch, -(-work.images // load.batch)
    seconds = _step_seconds(work, load, sharding, hardware)
    bound = max(seconds, key=lambda part: seconds[part])
    step = max(seconds["compute"] + seconds["update"] + seconds["communication"], seconds["data"])
    # weights, two moments and the averages, each share copied by its GPU and written by its host
    size = 4.0 * work.parameters * (3 + sharding.averages)
    faults = Faults(
        mtbf=job_mtbf(-(-gpus // hardware.gpus_per_node), hardware.failures_per_1000_node_days),
        stall=size / gpus / (hardware.host_gbytes_per_second * _GB),
        write=size / (hardware.storage_gbytes_per_second * _GB),
        restart=hardware.restart_seconds,
    )
    interval = min(max(best_interval(faults), step), max(steps * step, step))
    kept = goodput(faults, interval)
    hours = steps * step / kept / _HOUR if kept else float("inf")
    return Forecast(
        gpus=gpus,
        batch=batch,
        steps=steps,
        memory=memory,
        **seconds,
        step=step,
        bound=bound,
        images_per_second=batch / step,
        reads_per_image=load.reads,
        shard_bytes_per_second=batch / step * load.reads * work.image_bytes,
        checkpoint_bytes=size,
        stall=faults.stall,
        write=faults.write,
        mtbf=faults.mtbf,
        interval=interval,
        goodput=kept,
        days=hours / 24,
        cost=hours * gpus * hardware.price_per_gpu_hour,
    )


def _step_seconds(
    work: Workload, load: StepLoad, sharding: Sharding, hardware: HardwareConfig
) -> dict[str, float]:
    """Seconds that each part of a step would take alone."""
    links = Links(
        hardware.gpus_per_node,
        hardware.node_gbytes_per_second * _GB,
        hardware.network_gbytes_per_second * _GB,
        hardware.latency_microseconds * 1e-6,
    )
    gpus, storage = sharding.workers, hardware.storage_gbytes_per_second * _GB
    updated = work.parameters / (1 if sharding.stage == 0 else gpus)
    traffic = step_traffic(
        work.parameters, gpus, sharding.stage, sharding.accumulation, work.message
    )
    return {
        "compute": load.passes,
        "update": updated * work.update_seconds,
        "communication": traffic_seconds(traffic, gpus, links),
        "data": load.batch * load.reads * work.image_bytes / storage,
    }
