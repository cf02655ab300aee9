"""How fast a GPU computes the run that is planned: as it was described, or as it was measured."""

from collections.abc import Iterable
from typing import NamedTuple

from pipeline.config.plan import PlanConfig
from pipeline.planning.calibration import Calibration
from pipeline.planning.operation_times import Estimate
from pipeline.planning.operations import passes_operations
from pipeline.training.trained import Trained

_ADAM_BYTES, _AVERAGE_BYTES = 28, 12  # float32 read and written for an element, in one pass each


class Speed(NamedTuple):
    """Seconds of one GPU: of both passes, by micro-batch, and of the update for each element."""

    passes: dict[int, Estimate]
    update_seconds: float


def described_speed(config: PlanConfig, flops: int, micro_batches: Iterable[int]) -> Speed:
    """By `config.hardware`, for a model that takes so many FLOPs to train on an image."""
    hardware, averages = config.hardware, len(config.optimizer.ema)
    rate = hardware.peak_tflops * 1e12 * hardware.achieved
    touched = _ADAM_BYTES + _AVERAGE_BYTES * averages
    return Speed(
        {size: Estimate(size * flops / rate, 0.0) for size in micro_batches},
        touched / (hardware.memory_gbytes_per_second * 1e9),
    )


def measured_speed(
    config: PlanConfig, trained: Trained, micro_batches: Iterable[int], found: Calibration
) -> Speed:
    """By the operations that the passes consist of, which are watched and not computed."""
    bfloat16 = config.deepspeed.precision == "bfloat16"
    passes = {
        size: found.passes.of(passes_operations(trained, size, bfloat16=bfloat16))
        for size in micro_batches
    }
    return Speed(passes, found.update_seconds)
