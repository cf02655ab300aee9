"""What a benchmark found, as it is written to `benchmark.json`. All times are in seconds."""

from statistics import median
from typing import Annotated, Literal, NamedTuple

from pydantic import Field

from pipeline.config.base import ConfigModel


class Timing(ConfigModel):
    """The same thing measured again and again; of each repetition, the slowest rank's time."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle of the repetitions."""
        return median(self.seconds)

    @property
    def spread(self) -> float:
        """(Greatest - least) / median."""
        return (max(self.seconds) - min(self.seconds)) / self.median


class OperationTiming(NamedTuple):
    """An operation of the passes, which occurs `calls` times and takes `seconds` each time.

    `name`, `flops`, `bytes`: as in `pipeline.planning.operations.Operation`.
    """

    name: str
    flops: int
    bytes: int
    calls: int
    seconds: float


class PassTiming(ConfigModel):
    """Forward and backward pass over `micro_batch` images on one device, without an engine.

    `seconds`: of the whole. `issue_seconds`: what the host takes to hand them over to a device that
    computes beside it; None where host and device are one. `operations`: each by itself.
    """

    micro_batch: int
    seconds: float
    issue_seconds: float | None
    operations: tuple[OperationTiming, ...]


class StepTiming(ConfigModel):
    """A step on a batch that is in memory, without anything else of the training loop.

    `phases`: where its time goes, means over ranks and repetitions.
    """

    precision: Literal["float32", "bfloat16"]
    step: Timing
    phases: dict[str, float]


class Trial(ConfigModel):
    """One number of workers. Times are of one step: of its data, of its arithmetic, of both.

    `both` is the training loop itself, with the stream. `all_reduce` exchanges a gradient's worth
    of float32 among the workers; None for one worker. `stall` is what a checkpoint in the
    background holds the training up, `save` the whole of it, waited for. `load` is the greatest
    one-minute load average of a worker's machine before the trial, per core.
    """

    workers: int
    global_batch: int
    device: str
    load: float
    compute: StepTiming
    loader: Timing
    both: Timing
    all_reduce: Timing | None
    stall: Timing
    save: Timing

    def images_per_second(self, timing: Timing) -> float:
        """Of all workers together, where a step takes as long."""
        return self.global_batch / timing.median


class BenchmarkReport(ConfigModel):
    """A whole benchmark: `trials` by rising workers; the last one is the run that was asked for.

    `training_flops`: model FLOPs of forward and backward pass for one image. `peak_flops`: FLOP/s
    of one worker's device; None where unknown. `state_bytes`: of a checkpoint, all ranks together.
    `passes`: on the fewest workers, at the run's micro-batch and at a smaller one; none if
    `measure.operations` is false.
    """

    name: str
    zero_stage: int
    parameters: int
    training_flops: int
    peak_flops: float | None
    state_bytes: int
    checkpoint_every_steps: int
    steps: int
    repeats: int
    torch: str
    code: str
    trials: Annotated[tuple[Trial, ...], Field(min_length=1)]
    other_precision: StepTiming | None
    passes: tuple[PassTiming, ...] = ()

    @property
    def model_flops_per_second(self) -> float:
        """What a worker achieves in the loop, all included."""
        last = self.trials[-1]
        return self.training_flops * last.images_per_second(last.both) / last.workers

    @property
    def storage_bytes_per_second(self) -> float:
        """What a checkpoint is written with, all ranks together, its copy and commit included."""
        return self.state_bytes / self.trials[-1].save.median
