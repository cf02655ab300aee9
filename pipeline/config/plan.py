"""Configuration of `jobs.plan`: a training run, and the cluster that it is to run on."""

from typing import Literal

from pydantic import Field, PositiveInt

from pipeline.config.base import ConfigModel
from pipeline.config.train import TrainConfig


class HardwareConfig(ConfigModel):
    """A cluster of like nodes. GB are 10^9 bytes, GiB 2^30."""

    memory_gib: float = Field(gt=0, description="Of a GPU.")
    reserved_gib: float = Field(
        2.0, ge=0, description="Of that for the driver, NCCL, workspaces and fragmentation."
    )
    peak_tflops: float = Field(gt=0, description="Of a GPU at the precision used, dense.")
    achieved: float = Field(gt=0, le=1, description="Share of the peak that the passes reach.")
    memory_gbytes_per_second: float = Field(
        gt=0, description="Of a GPU's own memory, which the optimizer's update is bound by."
    )
    gpus_per_node: int = Field(8, gt=0)
    node_gbytes_per_second: float = Field(
        gt=0, description="In and out of a GPU, to the others of its node."
    )
    network_gbytes_per_second: float = Field(
        gt=0, description="In and out of a node, to other nodes."
    )
    latency_microseconds: float = Field(10, ge=0, description="From a GPU to another.")
    host_gbytes_per_second: float = Field(25, gt=0, description="From a GPU to its host.")
    storage_gbytes_per_second: float = Field(
        gt=0, description="Of the storage, all nodes together, reading or writing."
    )
    failures_per_1000_node_days: float = Field(
        ge=0, description="Failures that end a job, for each 1000 days of a node."
    )
    restart_seconds: float = Field(300, ge=0, description="From a failure to the next step.")
    price_per_gpu_hour: float = Field(ge=0, description="In whatever currency.")


class ImagesConfig(ConfigModel):
    """The images, where the data set has not been prepared yet."""

    shape: tuple[PositiveInt, PositiveInt, PositiveInt] = Field(description="As [C, H, W].")
    classes: int | None = Field(None, gt=0, description="null: no labels.")
    levels: int = Field(256, ge=2, le=256)
    bytes: float = Field(gt=0, description="Of an image in its shard, on average.")


class PlanConfig(TrainConfig):
    """A training run as for `jobs.train`, planned and not run."""

    hardware: HardwareConfig = Field(
        description="The cluster: add --config jobs/presets/h100_cluster.yaml, or one like it."
    )
    images: ImagesConfig | None = Field(
        None, description="null reads them from data.train, which then has to be there."
    )
    gpus: tuple[PositiveInt, ...] = Field(
        (8, 64, 512, 4096), description="Numbers of GPUs to plan for, besides cluster.workers."
    )
    scaling: Literal["weak", "strong"] = Field(
        "weak",
        description="weak: each GPU keeps its images per step, so the batch grows and the steps "
        "shrink; strong: the batch stays. All images of the run are seen either way.",
    )
    micro_batches: tuple[PositiveInt, ...] = Field(
        (), description="Further micro-batches in the table of memory."
    )
    calibration: str | tuple[str, ...] | None = Field(
        None,
        description="Folder that jobs.benchmark has written on such hardware, or several, of "
        "networks smaller and larger than this one: what was measured takes the place of "
        "peak_tflops x achieved, memory_gbytes_per_second, host_gbytes_per_second and the "
        "bandwidth of the links.",
    )
    output: str | None = Field(None, description="JSON file for all figures.")

    @property
    def calibrations(self) -> tuple[str, ...]:
        """Where the benchmarks are that it is calibrated by."""
        given = self.calibration or ()
        return tuple(self.path(folder) for folder in ([given] if isinstance(given, str) else given))
