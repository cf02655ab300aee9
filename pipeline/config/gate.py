"""What a sample set has to be before it is published: the limits of `jobs.gate`."""

from pydantic import Field, model_validator

from pipeline.config.base import ConfigModel
from pipeline.config.features import FeaturesConfig, ImagesConfig

Share = float | None


class GateConfig(ConfigModel):
    """Limits; null does not check. Shares are of the samples."""

    against: ImagesConfig = Field(description="What the model was trained on.")
    class_imbalance: float | None = Field(
        0.1, ge=0, description="Most that a class's count may differ from the mean count, relative."
    )
    duplicates: Share = Field(0.0, ge=0, le=1, description="Share with the pixels of another.")
    near_duplicates: Share = Field(
        0.001, ge=0, le=1, description="Share with another sample nearer than `near`."
    )
    near: float = Field(
        4.0, ge=0, description="Root mean square difference of the pixels, in levels."
    )
    memorised: Share = Field(
        0.05,
        ge=0,
        le=1,
        description="Share as near to a training image as only the share `memorised_quantile` of "
        "training images is to another.",
    )
    memorised_quantile: float = Field(0.01, gt=0, lt=1)
    constant: Share = Field(0.0, ge=0, le=1, description="Share that spans `span` levels or fewer.")
    span: int = Field(2, ge=0)
    saturated: Share = Field(
        0.001, ge=0, le=1, description="Share with more than `ends` of its pixels at the two ends."
    )
    ends: float = Field(0.98, gt=0, le=1)
    frechet: float | None = Field(
        None, gt=0, description="Greatest Fréchet distance of `features` from `against`."
    )
    features: FeaturesConfig | None = Field(None, description="As in jobs.quality.")
    neighbour_images: int = Field(
        2000, gt=1, description="Nearest neighbours are sought for at most so many of each set."
    )

    @model_validator(mode="after")
    def _frechet_has_features(self) -> "GateConfig":
        if (self.frechet is None) != (self.features is None):
            raise ValueError("frechet is a distance of features: give both or neither")
        return self
