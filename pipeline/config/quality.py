"""Configuration of `jobs.quality`, `jobs.gate` and `jobs.features`."""

from pydantic import Field, model_validator

from pipeline.config.base import ConfigModel, JobConfig
from pipeline.config.features import FeaturesConfig, ImagesConfig
from pipeline.config.gate import GateConfig
from pipeline.config.model import ClassifierConfig
from pipeline.config.sample import PoolConfig


class DistancesConfig(ConfigModel):
    """What is computed from the features of two sets."""

    subset: int = Field(
        1000, gt=1, description="Images of a KID subset; at most those of the smaller set."
    )
    subsets: int = Field(100, gt=0, description="KID subsets, drawn by `seed`.")
    neighbour: int = Field(3, gt=0, description="k of precision and recall.")
    neighbour_images: int = Field(
        10_000, gt=1, description="Precision and recall use at most so many images of each set."
    )
    seed: int = Field(0, ge=0, lt=2**63)


class QualityConfig(JobConfig):
    """Distances between samples and data: Fréchet, kernel, precision and recall."""

    samples: tuple[str, ...] = Field(
        min_length=1, description="Folders or URLs of the sets that are judged, one row each."
    )
    against: ImagesConfig = Field(description="The images that they should be like.")
    features: FeaturesConfig
    distances: DistancesConfig = DistancesConfig()
    output: str = Field(description="Folder for tables, picture and features.")
    batch_size: int = Field(250, gt=0, description="Images per network call.")
    pool: PoolConfig = PoolConfig()


class TrainFeaturesConfig(JobConfig):
    """Train a small classifier on a labelled set, for its features."""

    data: str = Field(description="Folder or URL of a labelled split, made by jobs.prepare.")
    test: str | None = Field(None, description="Split on which the accuracy is measured.")
    output: str = Field(description="Folder for the classifier.")
    network: ClassifierConfig = ClassifierConfig()
    gamma_0: float = Field(-13.3, description="Least noise in training.")
    gamma_1: float = Field(-4.0, description="Most noise in training; a little serves as variety.")
    steps: int = Field(600, gt=0)
    batch_size: int = Field(128, gt=0)
    learning_rate: float = Field(2e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    seed: int = Field(0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _increasing(self) -> "TrainFeaturesConfig":
        if self.gamma_1 <= self.gamma_0:
            raise ValueError(f"gamma_1 ({self.gamma_1}) must be above gamma_0 ({self.gamma_0})")
        return self


class GateJobConfig(JobConfig):
    """Check a finished sample set and mark it as passed or failed."""

    samples: str = Field(description="Folder or URL of the set.")
    gate: GateConfig
    work: str | None = Field(
        None,
        description="Folder for features and neighbours; null is the set's own gate/. Sets that "
        "share one look at the training images once.",
    )
    batch_size: int = Field(250, gt=0, description="Images that are looked at together.")
    pool: PoolConfig = PoolConfig()
