"""Configuration of `jobs.benchmark`: that of a training run, and how it is measured."""

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.base import ConfigModel
from pipeline.config.train import TrainConfig


class MeasureConfig(ConfigModel):
    """How long is measured, and on how many workers."""

    steps: int = Field(5, gt=0, description="Steps of one repetition.")
    repeats: int = Field(5, gt=1, description="Repetitions, after one that warms up.")
    workers: tuple[PositiveInt, ...] | None = Field(
        None,
        min_length=1,
        description="Worker counts, each with the same images per worker; null is 1, 2, 4, … up to "
        "cluster.workers.",
    )
    both_precisions: bool = Field(
        True, description="Time the step also at the precision that is not configured."
    )
    operations: bool = Field(
        True,
        description="Time each operation of the passes, for jobs.plan: on the fewest workers, with "
        "weights and gradients of the whole model on each.",
    )


class BenchmarkConfig(TrainConfig):
    """A training configuration; its own preset serves as it is."""

    output: str | None = Field(
        None, description="Folder for table, picture and JSON; null is <storage_path>/<name>.speed."
    )
    measure: MeasureConfig = MeasureConfig()

    @property
    def most_workers(self) -> int:
        """The workers of the run itself; of a range, the most."""
        return self.cluster.worker_counts[-1]

    @property
    def worker_counts(self) -> tuple[int, ...]:
        """The numbers of workers to measure, rising; `most_workers` is always among them."""
        most = self.most_workers
        counts = self.measure.workers or tuple(2**n for n in range(most.bit_length()))
        return tuple(sorted({*counts, most}))

    def trial(self, workers: int) -> "BenchmarkConfig":
        """On so many workers, each with the images that it has among `most_workers`."""
        images = self.data.batch_size // self.most_workers
        data = self.data.model_copy(update={"batch_size": images * workers})
        cluster = self.cluster.model_copy(update={"workers": workers})
        return self.model_copy(update={"data": data, "cluster": cluster})

    @property
    def other_precision(self) -> "BenchmarkConfig":
        """With bfloat16 in place of float32, or the other way."""
        other = {"float32": "bfloat16", "bfloat16": "float32"}[self.deepspeed.precision]
        deepspeed = self.deepspeed.model_copy(update={"precision": other})
        return self.model_copy(update={"deepspeed": deepspeed})

    @model_validator(mode="after")
    def _counts_within(self) -> "BenchmarkConfig":
        beyond = [count for count in self.worker_counts if count > self.most_workers]
        if beyond:
            raise ValueError(
                f"measure.workers has {beyond[0]}, cluster.workers is {self.most_workers}: measure "
                "no more workers than the run has"
            )
        return self
