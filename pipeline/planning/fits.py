"""Whether a training run fits into the memory of its GPUs, asked before it is submitted."""

from pipeline.config.train import TrainConfig
from pipeline.errors import InputError
from pipeline.planning.activations import PassMemory, pass_memory
from pipeline.planning.memory import DeviceMemory, device_memory, sharding_of

_GIB = 2**30


def check_fits(
    config: TrainConfig,
    parameters: int,
    shape: tuple[int, int, int],
    classes: int | None,
    levels: int,
) -> None:
    """Refuse a run whose peak is above `cluster.gpu_memory_gib`, if that is known.

    Of a range of workers, on the fewest: they have the most to hold.

    Raises:
        InputError: says what takes how much and what would help.
    """
    room = config.cluster.gpu_memory_gib
    if room is None:
        return
    passes = passes_of(config, shape, classes, levels, config.micro_batch)
    sharding = sharding_of(config, config.cluster.worker_counts[0])
    memory = device_memory(parameters, passes, sharding)
    if memory.peak > room * _GIB:
        raise InputError(
            f"the run does not fit: a GPU would need {memory.peak / _GIB:.3g} GiB, and "
            f"cluster.gpu_memory_gib is {room:g}. {memory_text(memory)}. Lower data.micro_batch "
            f"({config.micro_batch}), raise deepspeed.zero_stage ({sharding.stage}) or "
            "cluster.workers, or see what fits with jobs.plan"
        )


def memory_text(memory: DeviceMemory) -> str:
    """What takes how much, in GiB."""
    return ", ".join(f"{name} {size / _GIB:.3g}" for name, size in memory._asdict().items())


def passes_of(
    config: TrainConfig,
    shape: tuple[int, int, int],
    classes: int | None,
    levels: int,
    micro_batch: int,
) -> PassMemory:
    """What the passes over so many images (C,H,W) = `shape` take, at the run's precision."""
    bfloat16 = config.deepspeed.precision == "bfloat16"
    return pass_memory(config.model, shape, classes, levels, micro_batch, bfloat16=bfloat16)
