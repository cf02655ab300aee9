"""Whether a training run fits into the memory of its GPUs, asked before it is submitted."""

from typing import get_args

from pipeline.config.train import TrainConfig
from pipeline.errors import InputError
from pipeline.planning.activations import PassMemory, pass_memory
from pipeline.planning.memory import DeviceMemory, ZeroStage, device_memory, sharding_of
from pipeline.training.trained import Trained

GIB = 2**30
STAGES: tuple[ZeroStage, ...] = get_args(ZeroStage)


def check_fits(config: TrainConfig, parameters: int, trained: Trained) -> None:
    """Refuse a run whose peak is above `cluster.gpu_memory_gib`, if that is known.

    Of a range of workers, on the fewest: they have the most to hold.

    Raises:
        InputError: says what takes how much and what would fit.
    """
    if config.cluster.gpu_memory_gib is None:
        return
    room, workers = config.cluster.gpu_memory_gib * GIB, config.cluster.worker_counts[0]
    passes = passes_of(config, trained, config.micro_batch)
    memory = device_memory(parameters, passes, sharding_of(config, workers))
    if memory.peak <= room:
        return
    table = memory_table(config, parameters, workers, {config.micro_batch: passes})
    raise InputError(
        f"the run does not fit: a GPU would need {memory.peak / GIB:.3g} GiB, and "
        f"cluster.gpu_memory_gib is {config.cluster.gpu_memory_gib:g}. {memory_text(memory)}. "
        f"{remedy(table, room)}"
    )


def passes_of(config: TrainConfig, trained: Trained, micro_batch: int) -> PassMemory:
    """What the passes over so many images take, at the run's precision."""
    return pass_memory(trained, micro_batch, bfloat16=config.deepspeed.precision == "bfloat16")


MemoryTable = dict[tuple[ZeroStage, int], DeviceMemory]
"""By ZeRO stage and micro-batch."""


def memory_table(
    config: TrainConfig, parameters: int, workers: int, passes: dict[int, PassMemory]
) -> MemoryTable:
    """The memory of one of `workers` at every stage and every micro-batch of `passes`."""
    return {
        (stage, size): device_memory(parameters, taken, sharding_of(config, workers, stage))
        for stage in STAGES
        for size, taken in passes.items()
    }


def memory_text(memory: DeviceMemory) -> str:
    """What takes how much, in GiB."""
    return ", ".join(f"{name} {size / GIB:.3g}" for name, size in memory._asdict().items())


def remedy(table: MemoryTable, room: float) -> str:
    """What of `table` fits into `room` bytes; where nothing does, what else helps."""
    sizes = sorted({size for _, size in table})
    fits = {n: [str(s) for s in STAGES if table[s, n].peak <= room] for n in sizes}
    found = [f"data.micro_batch={n} at ZeRO stage {', '.join(fits[n])}" for n in sizes if fits[n]]
    if found:
        return f"These fit: {'; '.join(found)}"
    return (
        f"No ZeRO stage fits with data.micro_batch={sizes[0]}: lower it, raise cluster.workers or "
        "lower zero_optimization.reduce_bucket_size; jobs.plan with micro_batches=[…] shows what "
        "would fit"
    )
