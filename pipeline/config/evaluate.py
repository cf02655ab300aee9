"""Configuration of `jobs.evaluate`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer, model_validator

from pipeline.config.average import AverageConfig
from pipeline.config.base import ConfigModel, JobConfig
from pipeline.config.data import SelectConfig, TransformConfig
from pipeline.config.sample import PoolConfig
from vdm_core.likelihood import Dequantisation

FigureName = Literal["discrete", "continuous", "ode", "importance", "profile"]


def _several(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


def _as_written(values: tuple[str, ...]) -> Any:
    return values[0] if len(values) == 1 else values


Models = Annotated[
    tuple[str, ...],
    Field(min_length=1),
    BeforeValidator(_several),
    PlainSerializer(_as_written),
]
"""Models by folder or URL; a single one may be written alone."""


OneOrMany = Annotated[
    tuple[AverageConfig, ...], BeforeValidator(lambda v: (v,) if isinstance(v, dict) else v)
]
"""Averages; a single one may be written alone."""


class BoundsConfig(ConfigModel):
    """Figures beside the default bound; each adds network calls for every image."""

    compute: tuple[FigureName, ...] = Field(
        (),
        description="discrete: all T steps. continuous: many times. ode: NLL of the "
        "probability-flow ODE. importance: K weighted paths. profile: the diffusion term over γ.",
    )
    steps: int | None = Field(
        None, gt=0, description="T of discrete and importance; null is the evaluation's own."
    )
    continuous_draws: int = Field(32, gt=0, description="Times per image.")
    importance_draws: int = Field(4, gt=0, description="K; the bound takes T K network calls.")
    ode_draws: int = Field(1, gt=0, description="Dequantisations per image, weighted.")
    ode_tolerance: float = Field(
        1e-5, gt=0, description="Of the ODE's solver, relative and absolute; more is quicker."
    )
    dequantisation: Dequantisation = "truncated_normal"
    profile_points: int = Field(33, ge=2, description="Values of γ, evenly from γ(0) to γ(1).")


class EvaluateConfig(JobConfig):
    """Bits/dim of a trained model over a whole split, each image once."""

    model: Models = Field(
        description="A run's folder (its newest checkpoint), or a checkpoint's. Several are "
        "compared, each with the first."
    )
    ema: OneOrMany = Field(
        (),
        description="Which moving average: {decay: 0.9999} or {width: 0.07} for all the models, or "
        "one for each; empty is the first that each run keeps.",
    )
    data: str = Field(description="Folder or URL of the split, made by jobs.prepare.")
    select: SelectConfig = Field(SelectConfig(), description="Which of its images.")
    transform: TransformConfig = Field(
        TransformConfig(), description="As in training; of it, resize and the centre crop are done."
    )
    output: str | None = Field(
        None, description="Folder for the result; null is a single model's own."
    )
    baseline_data: str | None = Field(
        None, description="Split on which the i.i.d.-pixel histogram is fitted; null leaves it out."
    )
    draws: int = Field(4, gt=0, description="Times and noises per image.")
    steps: int | None = Field(None, gt=0, description="T; null is the model's own.")
    bounds: BoundsConfig = BoundsConfig()
    seed: int = Field(0, ge=0, lt=2**63)
    batch_size: int = Field(
        100, gt=0, description="Images per network call; what an interrupted job keeps is cut so."
    )
    pool: PoolConfig = PoolConfig()

    def average_of(self, number: int = 0) -> AverageConfig | None:
        """The average to take of a model, by the model's place."""
        return self.ema[number % len(self.ema)] if self.ema else None

    @model_validator(mode="after")
    def _averages_fit(self) -> "EvaluateConfig":
        if len(self.ema) not in (0, 1, len(self.model)):
            raise ValueError(
                f"ema has {len(self.ema)} averages for {len(self.model)} models: give one for all, "
                "or one for each"
            )
        return self

    @model_validator(mode="after")
    def _comparison_has_a_place(self) -> "EvaluateConfig":
        if len(self.model) > 1 and self.output is None:
            raise ValueError("several models are compared in one place: set output")
        return self
