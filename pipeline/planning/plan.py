"""A training configuration and a described cluster -> what the run would need, take and cost."""

from collections.abc import Iterable
from dataclasses import dataclass

from pipeline.config.plan import ImagesConfig, PlanConfig
from pipeline.config.train import TrainConfig
from pipeline.data.mixture import Mixture, open_mixture
from pipeline.data.order import reads_per_sample
from pipeline.errors import InputError
from pipeline.planning.calibration import calibrated, read_calibration
from pipeline.planning.communication import Message
from pipeline.planning.fits import GIB, MemoryTable, memory_table, passes_of
from pipeline.planning.forecast import Forecast, StepLoad, Workload, forecast
from pipeline.planning.memory import device_memory, sharding_of
from pipeline.planning.speed import Speed, described_speed, measured_speed
from pipeline.training.compute_cost import training_flops
from pipeline.training.deepspeed_json import deepspeed_json
from pipeline.training.trained import Trained


@dataclass(frozen=True)
class ClusterPlan:
    """All that `jobs.plan` finds out. `memory`: by ZeRO stage and micro-batch, for `workers`.

    `speed`: of each GPU. `room`: bytes of a GPU that are there for the run. `impossible`: numbers
    of GPUs among which the batch does not divide, and why.
    """

    config: PlanConfig
    work: Workload
    speed: Speed
    workers: int
    room: float
    memory: MemoryTable
    forecasts: tuple[Forecast, ...]
    impossible: dict[int, str]


def plan_cluster(config: PlanConfig) -> ClusterPlan:
    """Count, watch and work out everything; nothing is written and no worker starts.

    Raises:
        InputError: what `jobs.train` would refuse too, or a calibration that is none.
    """
    deepspeed_json(config)
    images = config.images or images_of(config)
    trained = Trained.by(config, images)
    found = None
    if config.calibrations:
        found = read_calibration(config.calibrations, config.deepspeed.precision)
        config = config.model_copy(update={"hardware": calibrated(config.hardware, found)})
    workers, hardware = config.cluster.worker_counts[0], config.hardware
    scaled, impossible = scaled_configs(config, {workers, *config.gpus})
    computed = {other.micro_batch for other in scaled.values()}
    sizes = {config.micro_batch, *config.micro_batches}
    parameters, flops = trained.check(), training_flops(trained.outline(), trained.shape)
    passes = {size: passes_of(config, trained, size) for size in sorted(sizes | computed)}
    speed = (
        described_speed(config, flops, computed)
        if found is None
        else measured_speed(config, trained, computed, found)
    )
    work = workload(config, parameters, flops, images.bytes, speed.update_seconds)

    def on(gpus: int, other: PlanConfig) -> Forecast:
        sharding = sharding_of(other, gpus)
        memory = device_memory(work.parameters, passes[other.micro_batch], sharding)
        data = other.data
        reads = reads_per_sample(
            gpus,
            lanes=data.lanes,
            shuffle_window=data.shuffle_window,
            processes=data.loader_workers or 1,
            micro_batch=other.micro_batch,
        )
        seconds = sharding.accumulation * speed.passes[other.micro_batch].seconds
        load = StepLoad(data.batch_size, seconds, reads)
        return forecast(work, load, sharding, memory, hardware)

    return ClusterPlan(
        config=config,
        work=work,
        speed=speed,
        workers=workers,
        room=(hardware.memory_gib - hardware.reserved_gib) * GIB,
        memory=memory_table(
            config, work.parameters, workers, {size: passes[size] for size in sorted(sizes)}
        ),
        forecasts=tuple(on(gpus, other) for gpus, other in scaled.items()),
        impossible=impossible,
    )


def images_of(config: TrainConfig) -> ImagesConfig:
    """The images of `data.train`, from its manifests.

    Raises:
        InputError: it is not there; names the other way to say what the images are.
    """
    try:
        mixture = open_mixture(config.train_paths, config.data)
    except InputError as error:
        raise InputError(
            f"{error}. A plan needs no data: describe the images, such as "
            "images={shape: [3, 64, 64], classes: 1000, bytes: 9000}"
        ) from None
    info = mixture.info
    return ImagesConfig(
        shape=info.shape, classes=info.classes, levels=info.levels, bytes=_image_bytes(mixture)
    )


def workload(
    config: PlanConfig, parameters: int, flops: int, image_bytes: float, update_seconds: float
) -> Workload:
    """What the run consists of."""
    zero = config.deepspeed.config.get("zero_optimization", {})
    sent = 2 if config.deepspeed.precision == "bfloat16" else 4
    return Workload(
        parameters=parameters,
        flops=flops,
        images=config.steps * config.data.batch_size,
        image_bytes=image_bytes,
        update_seconds=update_seconds,
        message=Message(
            gradient=sent if config.deepspeed.zero_stage else 4,  # stage 0 sends float32
            weight=sent,
            bucket=int(zero.get("reduce_bucket_size", 500_000_000)),
            reused=int(zero.get("stage3_max_reuse_distance", 1_000_000_000)),
            scattered=not zero.get("use_multi_rank_bucket_allreduce", True),
        ),
    )


def scaled_configs(
    config: PlanConfig, counts: Iterable[int]
) -> tuple[dict[int, PlanConfig], dict[int, str]]:
    """The configuration on each number of GPUs, rising; and where that is impossible, why."""
    scaled, impossible = {}, {}
    for gpus in sorted(counts):
        try:
            scaled[gpus] = on_gpus(config, gpus)
        except InputError as error:
            impossible[gpus] = str(error)
    return scaled, impossible


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
