"""Configuration of `jobs.quality`, `jobs.gate` and `jobs.features`."""

from typing import Annotated, Literal

from pydantic import Field, model_validator

from pipeline.config.base import ConfigModel, JobConfig
from pipeline.config.data import SelectConfig, TransformConfig
from pipeline.config.sample import PoolConfig
from pipeline.model.classifier_export import ClassifierConfig


class ClassifierFeatures(ConfigModel):
    """Features of a classifier that was trained on the data (`jobs.features`)."""

    kind: Literal["classifier"]
    path: str = Field(description="Folder or URL of the classifier.")
    gamma: float = Field(
        -13.3, description="Noise level γ at which it is told that it sees; images get no noise."
    )


class InceptionFeatures(ConfigModel):
    """The 2048 features of Inception v3 that FID is defined by (extra `quality`)."""

    kind: Literal["inception"]
    weights: str = Field(
        description="File or URL (s3://, gs://, https://) of torch-fidelity's weights "
        "(weights-inception-2015-12-05-…pth). Nothing is fetched from anywhere else."
    )
    sha256: str = Field(
        pattern=r"^[0-9a-f]{64}$", description="Of the weights; others are refused."
    )


FeaturesConfig = Annotated[ClassifierFeatures | InceptionFeatures, Field(discriminator="kind")]


class ImagesConfig(ConfigModel):
    """A set of images: a split, or a finished sample set."""

    path: str = Field(description="Folder or URL of a set by jobs.prepare or jobs.sample.")
    select: SelectConfig = SelectConfig()
    transform: TransformConfig = Field(
        TransformConfig(), description="Of it, resize and the centre crop are done."
    )


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
