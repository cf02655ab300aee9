"""Configuration of `jobs.sample` and `jobs.evaluate`."""

from typing import Literal

from pydantic import Field

from pipeline.config.base import ConfigModel, JobConfig


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
    sampler: Literal["ancestral", "ddim"] = "ancestral"
    steps: int = Field(250, gt=0)
    guidance_scale: float = Field(1.0, ge=0, description="w of classifier-free guidance; 1 is off.")
    batch_size: int = Field(64, gt=0, description="Images per network call and actor.")
    samples_per_shard: int = Field(1000, gt=0)
    grid_columns: int = Field(10, gt=0)
    pool: PoolConfig = PoolConfig()
    overwrite: bool = Field(False, description="Replace samples of another request.")


class EvaluateConfig(JobConfig):
    """Bits/dim of a trained model over a whole split, each image once."""

    model: str = Field(description="A run's folder (its newest checkpoint), or a checkpoint's.")
    data: str = Field(description="Folder or URL of the split, made by jobs.prepare.")
    output: str | None = Field(None, description="Folder for the result; null is the model's.")
    baseline_data: str | None = Field(
        None, description="Split on which the i.i.d.-pixel histogram is fitted; null leaves it out."
    )
    draws: int = Field(4, gt=0, description="Times and noises per image.")
    steps: int | None = Field(None, gt=0, description="T; null is the model's own.")
    seed: int = Field(0, ge=0, lt=2**63)
    batch_size: int = Field(100, gt=0)
    pool: PoolConfig = PoolConfig()
