"""Configuration of `jobs.sample`, and of the pool of actors that batch jobs share."""

from typing import Literal

from pydantic import Field, model_validator

from pipeline.config.base import ConfigModel, JobConfig
from vdm_core.samplers import SamplerName


class PoolConfig(ConfigModel):
    """The actors that share a job's work."""

    actors: int = Field(1, gt=0)
    cpus_per_actor: float = Field(1, gt=0)
    gpus_per_actor: float = Field(0, ge=0, description="May be a fraction.")


class SampleConfig(JobConfig):
    """Draw a data set of images from a trained model."""

    model: str = Field(description="A run's folder (its newest checkpoint), or a checkpoint's.")
    output: str = Field(description="Folder or URL for shards, manifest and grid.")
    per_class: int = Field(gt=0, description="Images of each class (of the set, if unconditional).")
    classes: tuple[int, ...] | None = Field(None, description="Which classes; null is all.")
    seed: int = Field(0, ge=0, lt=2**63)
    sampler: SamplerName = "ancestral"
    steps: int = Field(250, gt=0, description="T; heun and pc call the network 2 T times.")
    grid: Literal["t", "gamma"] = Field("t", description="What the steps are even in.")
    clip: Literal["static", "dynamic"] | None = Field(
        None, description="Keep x̂ in [-1, 1] at each step, by clipping or dynamic thresholding."
    )
    guidance_scale: float = Field(1.0, ge=0, description="w of classifier-free guidance; 1 is off.")
    gamma_interval: tuple[float, float] | None = Field(
        None, description="Lowest and highest γ at which to guide; null is everywhere."
    )
    batch_size: int = Field(64, gt=0, description="Images per network call and actor.")
    samples_per_shard: int = Field(1000, gt=0)
    grid_columns: int = Field(10, gt=0)
    pool: PoolConfig = PoolConfig()
    overwrite: bool = Field(False, description="Replace samples of another request.")

    @model_validator(mode="after")
    def _interval_of_guidance(self) -> "SampleConfig":
        if self.gamma_interval is None:
            return self
        lowest, highest = self.gamma_interval
        if lowest >= highest:
            raise ValueError(f"gamma_interval [{lowest}, {highest}] is empty: give lowest, highest")
        if self.guidance_scale == 1.0:
            raise ValueError("gamma_interval limits guidance, and guidance_scale=1 is none")
        return self
