"""Configuration of `jobs.export`."""

from pydantic import Field

from pipeline.config.average import AverageConfig
from pipeline.config.base import JobConfig


class ExportConfig(JobConfig):
    """Take one model out of a training run."""

    run: str = Field(description="Folder or URL of the run.")
    output: str = Field(description="Folder or URL for the model; empty, or with the same model.")
    step: int | None = Field(None, gt=0, description="Of the checkpoint; null is the newest.")
    ema: AverageConfig | None = Field(
        None, description="{decay: 0.9999} or {width: 0.07}; null is the first that the run keeps."
    )
