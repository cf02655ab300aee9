"""A VDM (network, schedule, likelihood), and a classifier of its noisy latents."""

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.average import AverageConfig
from pipeline.config.base import ConfigModel


class UNetConfig(ConfigModel):
    """The VDM paper's U-Net: full resolution throughout (Kingma et al. 2021, appendix B)."""

    kind: Literal["unet"]
    width: int = Field(128, gt=0, description="Channels of every block.")
    blocks: int = Field(32, gt=0, description="ResNet blocks on the way down (and one more up).")
    fourier_features: bool = True


class DownsamplingUNetConfig(ConfigModel):
    """A U-Net that halves the resolution between levels."""

    kind: Literal["downsampling_unet"]
    width: int = Field(32, gt=0, description="Channels of the first level.")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2, 2), min_length=1, description="Channels per level / width."
    )
    blocks: int = Field(2, gt=0, description="ResNet blocks per level.")
    attention_levels: int = Field(0, ge=0, description="Levels with attention, from the lowest.")
    fourier_features: bool = True


class DiTConfig(ConfigModel):
    """A transformer over patches of the image (Peebles and Xie 2023)."""

    kind: Literal["dit"]
    width: int = Field(384, gt=0, description="Features of a token.")
    depth: int = Field(12, gt=0, description="Transformer blocks.")
    heads: int = Field(6, gt=0, description="Attention heads of a block; they divide the width.")
    patch: int = Field(2, gt=0, description="Side of a patch; it divides the images' sides.")
    fourier_features: bool = True


NetworkConfig = Annotated[
    UNetConfig | DownsamplingUNetConfig | DiTConfig, Field(discriminator="kind")
]


class ScheduleConfig(ConfigModel):
    """The noise schedule γ(t), the negative log-SNR.

    A cosine is fixed. A multivariate schedule has a γ for each pixel and channel, an adaptive one
    also for each image, through a latent (MuLAN, Sahoo et al. 2024).
    """

    kind: Literal["linear", "cosine", "monotone", "multivariate", "adaptive"] = "linear"
    gamma_0: float = Field(-13.3, description="γ(0), the end without noise.")
    gamma_1: float = Field(5.0, description="γ(1), the end without signal.")
    learned: bool = Field(True, description="Train the two ends on the ELBO.")
    objective: Literal["elbo", "variance"] = Field(
        "elbo",
        description="What a monotone γ's shape between the ends descends. In continuous time the "
        "ELBO does not depend on the shape: variance makes its estimate less noisy.",
    )
    latent_dim: int | None = Field(
        None, gt=0, description="Size of an adaptive schedule's latent; null is 50."
    )
    width: int | None = Field(
        None,
        gt=0,
        description="Channels of the first layer of an adaptive schedule's encoder; null is 32.",
    )

    @model_validator(mode="after")
    def _increasing(self) -> "ScheduleConfig":
        if self.gamma_1 <= self.gamma_0:
            raise ValueError(
                f"gamma_1 ({self.gamma_1}) must be above gamma_0 ({self.gamma_0}): "
                "γ is the negative log-SNR and grows with t"
            )
        return self

    @model_validator(mode="after")
    def _has_a_shape(self) -> "ScheduleConfig":
        if self.objective == "variance" and self.kind in ("linear", "cosine"):
            raise ValueError(
                f"objective=variance trains the schedule's shape, and kind={self.kind} has none: "
                "set kind=monotone or objective=elbo"
            )
        if self.objective == "variance" and self.per_pixel:
            raise ValueError(
                "objective=variance is for a shape on which the ELBO does not depend, and it does "
                f"on that of kind={self.kind}: set objective=elbo"
            )
        return self

    @model_validator(mode="after")
    def _has_what_is_set(self) -> "ScheduleConfig":
        if self.kind == "cosine" and self.learned:
            raise ValueError("kind=cosine is fixed, ends and shape: set learned=false")
        set_for_adaptive = [n for n in ("latent_dim", "width") if getattr(self, n) is not None]
        if set_for_adaptive and self.kind != "adaptive":
            raise ValueError(f"{set_for_adaptive[0]} is for kind=adaptive, not kind={self.kind}")
        return self

    @property
    def per_pixel(self) -> bool:
        """Whether each pixel and channel has a γ of its own."""
        return self.kind in ("multivariate", "adaptive")


class ModelConfig(ConfigModel):
    """A Variational Diffusion Model, up to the shape and classes of the data."""

    kind: Literal["vdm"] = "vdm"
    network: NetworkConfig
    schedule: ScheduleConfig = ScheduleConfig()
    steps: int | None = Field(None, gt=0, description="T; null is continuous time.")
    prediction: Literal["epsilon", "x", "v", "score"] = "epsilon"
    conditional: bool = Field(True, description="Condition on the class label.")
    drop_label: float = Field(
        0.1, ge=0, le=1, description="Share of labels replaced by the null condition in training."
    )

    @property
    def learns_labels(self) -> bool:
        """Labels are given, not learned."""
        return False


class ClassifierConfig(ConfigModel):
    """A noise-aware classifier's network, as `NoiseAwareClassifier` has it."""

    width: int = Field(32, gt=0, description="Channels of the first level.")
    multipliers: tuple[PositiveInt, ...] = Field(
        (1, 2, 2), min_length=1, description="Channels per level / width."
    )
    blocks: int = Field(1, gt=0, description="ResNet blocks per level.")


class ScheduledClassifierConfig(ConfigModel):
    """A classifier of a VDM's latents, for classifier guidance of that VDM.

    It learns the data's labels at every noise level of the VDM's schedule, which does not change.
    """

    kind: Literal["classifier"]
    of: str = Field(description="The VDM: a run's folder (its newest checkpoint), or a model's.")
    ema: AverageConfig | None = Field(
        None, description="The average of its weights with whose schedule it samples; null: first."
    )
    network: ClassifierConfig = ClassifierConfig()

    @property
    def learns_labels(self) -> bool:
        """An example without a label counts for nothing."""
        return True

    @property
    def conditional(self) -> bool:
        """It is shown labels: they are what it learns."""
        return True

    @property
    def drop_label(self) -> float:
        """All of them."""
        return 0.0
