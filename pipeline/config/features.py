"""Sets of images to be compared, and the networks whose features they are compared by."""

from typing import Annotated, Literal

from pydantic import Field

from pipeline.config.base import ConfigModel
from pipeline.config.data import SelectConfig, TransformConfig


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
