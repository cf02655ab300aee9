"""Configuration of `jobs.sample`, and of the pool of actors that batch jobs share."""

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from pipeline.config.average import AverageConfig
from pipeline.config.base import ConfigModel, JobConfig
from pipeline.config.gate import GateConfig
from vdm_core.samplers import SamplerName


class PoolConfig(ConfigModel):
    """The actors that share a job's work."""

    actors: int = Field(1, gt=0, description="At most so many.")
    min_actors: int | None = Field(
        None, gt=0, description="Start with so many, and add as the cluster has room; null is all."
    )
    cpus_per_actor: float = Field(1, gt=0)
    gpus_per_actor: float = Field(0, ge=0, description="May be a fraction.")
    wait_seconds: float = Field(
        0,
        ge=0,
        description="How long an autoscaling cluster may take to grow to a node that holds an "
        "actor; with 0 a cluster without one is refused.",
    )

    @model_validator(mode="after")
    def _range(self) -> "PoolConfig":
        if self.min_actors is not None and self.min_actors > self.actors:
            raise ValueError(f"min_actors ({self.min_actors}) is above actors ({self.actors})")
        return self


class SweepConfig(ConfigModel):
    """A sample set for each combination; what is left empty is as in the rest of the request."""

    guidance_scales: tuple[NonNegativeFloat, ...] = ()
    steps: tuple[PositiveInt, ...] = ()
    samplers: tuple[SamplerName, ...] = ()

    @model_validator(mode="after")
    def _distinct(self) -> "SweepConfig":
        if not (self.guidance_scales or self.steps or self.samplers):
            raise ValueError("nothing to sweep: give guidance_scales, steps or samplers")
        for name in ("guidance_scales", "steps", "samplers"):
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name} {list(values)} names one twice")
        return self


class SampleConfig(JobConfig):
    """Draw a data set of images from a trained model: per class, by counts, or by requests."""

    model: str = Field(description="A run's folder (its newest checkpoint), or a checkpoint's.")
    ema: AverageConfig | None = Field(
        None,
        description="Which moving average of the run: {decay: 0.9999} or {width: 0.07}; null is "
        "the first that it keeps.",
    )
    output: str = Field(description="Folder or URL for shards, manifests and grids.")
    per_class: int | None = Field(
        None, gt=0, description="Images of each class (of the set, if unconditional)."
    )
    classes: tuple[int, ...] | None = Field(
        None, description="Which classes per_class is for; null is all."
    )
    counts: dict[int, PositiveInt] | None = Field(None, description="Images of each named class.")
    requests: str | None = Field(
        None,
        description="Parquet file with a row for each sample: id and, where the model knows "
        "classes, class; guidance_scale and seed where they differ from those below.",
    )
    seed: int = Field(0, ge=0, lt=2**63)
    sampler: SamplerName = "ancestral"
    steps: int = Field(250, gt=0, description="T; heun and pc call the network 2 T times.")
    grid: Literal["t", "gamma"] = Field("t", description="What the steps are even in.")
    clip: Literal["static", "dynamic"] | None = Field(
        None, description="Keep x̂ in [-1, 1] at each step, by clipping or dynamic thresholding."
    )
    guidance: Literal["classifier_free", "autoguidance", "classifier"] = "classifier_free"
    guidance_scale: float = Field(
        1.0, ge=0, description="w. classifier_free, autoguidance: 1 is off. classifier: 0 is off."
    )
    guide: str | None = Field(
        None,
        description="autoguidance: the weaker model, a run's folder or a checkpoint's. classifier: "
        "a noise-aware classifier of this model's schedule, in its folder or that of its run.",
    )
    gamma_interval: tuple[float, float] | None = Field(
        None, description="Lowest and highest γ at which to guide; null is everywhere."
    )
    sweep: SweepConfig | None = Field(
        None, description="Draw one set for each combination, compared in a table and a picture."
    )
    batch_size: int = Field(64, gt=0, description="Images per network call and actor.")
    compile: bool = Field(False, description="Compile the network (torch.compile).")
    samples_per_shard: int = Field(1000, gt=0)
    format: Literal["webdataset", "parquet"] = "webdataset"
    encoding: Literal["png", "webp"] = Field("png", description="Both keep every pixel.")
    grid_columns: int = Field(10, gt=0, description="Images of a class in grid.png.")
    class_grid_images: int = Field(
        64, ge=0, description="Images in each class's own grid, in grids/; 0 draws none."
    )
    gate: GateConfig | None = Field(
        None, description="Check each finished set as jobs.gate does, mark it, fail if it fails."
    )
    pool: PoolConfig = PoolConfig()
    overwrite: bool = Field(False, description="Replace samples of another request.")

    @property
    def unguided_scale(self) -> float:
        """The w at which the guidance changes nothing."""
        return 0.0 if self.guidance == "classifier" else 1.0

    @property
    def guided(self) -> bool:
        """Whether any sample may be guided."""
        scales = self.sweep.guidance_scales if self.sweep else ()
        return self.requests is not None or any(
            scale != self.unguided_scale for scale in scales or (self.guidance_scale,)
        )

    @model_validator(mode="after")
    def _one_plan(self) -> "SampleConfig":
        given = [n for n in ("per_class", "counts", "requests") if getattr(self, n) is not None]
        if len(given) != 1:
            raise ValueError(
                "give one of per_class, counts and requests: how many samples, of what "
                f"(given: {', '.join(given) or 'none'})"
            )
        if self.classes is not None and self.per_class is None:
            raise ValueError(f"classes says what per_class is for; leave it out with {given[0]}")
        if self.counts is not None and not self.counts:
            raise ValueError("counts is empty: give class: number")
        return self

    @model_validator(mode="after")
    def _gate_of_tars(self) -> "SampleConfig":
        if self.gate is not None and self.format != "webdataset":
            raise ValueError("gate reads the set as a data set: it takes format=webdataset")
        return self

    @model_validator(mode="after")
    def _guide_of_guidance(self) -> "SampleConfig":
        if self.guidance == "classifier_free" and self.guide is not None:
            raise ValueError("guide is for guidance=autoguidance or classifier")
        if self.guidance != "classifier_free" and self.guide is None:
            raise ValueError(f"guidance={self.guidance} takes a guide: the folder of one")
        return self

    @model_validator(mode="after")
    def _interval_of_guidance(self) -> "SampleConfig":
        if self.gamma_interval is None:
            return self
        lowest, highest = self.gamma_interval
        if lowest >= highest:
            raise ValueError(f"gamma_interval [{lowest}, {highest}] is empty: give lowest, highest")
        if not self.guided:
            raise ValueError(
                f"gamma_interval limits guidance, and guidance_scale={self.unguided_scale:g} is "
                "none"
            )
        return self
