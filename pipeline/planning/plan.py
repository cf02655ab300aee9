"""A training configuration and a described cluster -> what the run would need, take and cost."""

from dataclasses import dataclass
from typing import get_args

import torch

from pipeline.config.plan import ImagesConfig, PlanConfig
from pipeline.config.train import TrainConfig
from pipeline.data.mixture import Mixture, open_mixture
from pipeline.data.transform import seen_shape
from pipeline.errors import InputError
from pipeline.model.build import build_vdm, check_model
from pipeline.planning.calibration import measured_rate
from pipeline.planning.communication import Message
from pipeline.planning.fits import passes_of
from pipeline.planning.forecast import Forecast, Workload, forecast
from pipeline.planning.memory import DeviceMemory, ZeroStage, device_memory, sharding_of
from pipeline.training.deepspeed_json import deepspeed_json
from vdm_core.networks import flops_per_image

GIB = 2**30


@dataclass(frozen=True)
class ClusterPlan:
    """All that `jobs.plan` finds out. `memory`: by ZeRO stage and micro-batch, for `workers`.

    `room`: bytes of a GPU that are there for the run. `impossible`: numbers of GPUs among which
    the batch does not divide, and why.
    """

    config: PlanConfig
    work: Workload
    workers: int
    room: float
    memory: dict[tuple[ZeroStage, int], DeviceMemory]
    forecasts: tuple[Forecast, ...]
    impossible: dict[int, str]


def plan_cluster(config: PlanConfig) -> ClusterPlan:
    """Count, watch and work out everything; nothing is written and no worker starts.

    Raises:
        InputError: what `jobs.train` would refuse too, or a calibration that is none.
    """
    deepspeed_json(config)
    images = config.images or images_of(config)
    shape = seen_shape(config.data.transform, images.shape)
    work = workload(config, images, shape)
    sizes = sorted({config.micro_batch, *config.micro_batches})
    passes = {size: passes_of(config, shape, images.classes, images.levels, size) for size in sizes}
    workers = config.cluster.worker_counts[0]
    stages: tuple[ZeroStage, ...] = get_args(ZeroStage)
    memory = {
        (stage, size): device_memory(
            work.parameters, passes[size], sharding_of(config, workers, stage)
        )
        for stage in stages
        for size in sizes
    }
    hardware = config.hardware
    forecasts, impossible = [], {}
    for gpus in sorted({workers, *config.gpus}):
        try:
            scaled = on_gpus(config, gpus)
        except InputError as error:
            impossible[gpus] = str(error)
            continue
        sharding = sharding_of(scaled, gpus)
        held = device_memory(work.parameters, passes[config.micro_batch], sharding)
        forecasts.append(forecast(work, scaled.data.batch_size, sharding, held, hardware))
    return ClusterPlan(
        config=config,
        work=work,
        workers=workers,
        room=(hardware.memory_gib - hardware.reserved_gib) * GIB,
        memory=memory,
        forecasts=tuple(forecasts),
        impossible=impossible,
    )


def images_of(config: TrainConfig) -> ImagesConfig:
    """The images of `data.train`, from its manifests."""
    data = config.data
    mixture = open_mixture(config.train_paths, data.train, data.select, data.balance)
    info = mixture.info
    return ImagesConfig(
        shape=info.shape, classes=info.classes, levels=info.levels, bytes=_image_bytes(mixture)
    )


def workload(config: PlanConfig, images: ImagesConfig, shape: tuple[int, int, int]) -> Workload:
    """What the run consists of; the network is counted on the meta device."""
    parameters = check_model(config.model, shape, images.classes, images.levels)
    with torch.device("meta"):
        vdm = build_vdm(config.model, shape, images.classes, 0, images.levels)
    hardware = config.hardware
    rate = hardware.peak_tflops * 1e12 * hardware.achieved
    if config.calibration is not None:
        rate = measured_rate(config.path(config.calibration))
    zero = config.deepspeed.config.get("zero_optimization", {})
    sent = 2 if config.deepspeed.precision == "bfloat16" else 4
    return Workload(
        parameters=parameters,
        flops=3 * flops_per_image(vdm.network, shape),
        images=config.steps * config.data.batch_size,
        image_bytes=images.bytes,
        rate=rate,
        message=Message(sent, sent, int(zero.get("reduce_bucket_size", 500_000_000))),
    )


def on_gpus(config: PlanConfig, gpus: int) -> PlanConfig:
    """The configuration on so many GPUs, its batch grown or not as `scaling` says.

    Raises InputError where the batch does not divide among them.
    """
    micro, batch = config.micro_batch, config.data.batch_size
    if config.scaling == "weak":
        batch = batch // config.cluster.worker_counts[0] * gpus
    elif batch % gpus:
        raise InputError(f"{batch} images a step do not divide among {gpus} GPUs")
    else:
        micro = min(micro, batch // gpus)
        if batch // gpus % micro:
            raise InputError(f"{batch // gpus} images of a GPU are no multiple of {micro}")
    data = config.data.model_copy(update={"batch_size": batch, "micro_batch": micro})
    cluster = config.cluster.model_copy(update={"workers": gpus})
    return config.model_copy(update={"data": data, "cluster": cluster})


def _image_bytes(mixture: Mixture) -> float:
    """Bytes of shards for a sample, weighted as the components are drawn."""
    total = sum(part.weight for part in mixture.components)
    means = [
        part.weight
        * sum(row.bytes for row in part.dataset.rows)
        / sum(row.samples for row in part.dataset.rows)
        for part in mixture.components
    ]
    return sum(means) / total
