"""The other families that can be trained: VAEs with one latent or many, and a VDM of latents."""

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from pipeline.config.average import AverageConfig
from pipeline.config.base import ConfigModel
from pipeline.config.model import NetworkConfig, ScheduleConfig


class LatentsConfig(ConfigModel):
    """What all VAEs have."""

    latent_channels: int = Field(8, gt=0, description="Channels of each latent.")
    widths: tuple[PositiveInt, ...] = Field(
        (32, 64, 64), min_length=1, description="Channels of each level; each halves the image."
    )
    free_nats: float = Field(
        0.0, ge=0, description="Nats per image that each latent carries without being pulled back."
    )
    conditional: bool = Field(True, description="Condition on the class label.")
    drop_label: float = Field(
        0.0, ge=0, le=1, description="Share of labels replaced by the null condition in training."
    )

    @property
    def learns_labels(self) -> bool:
        """Labels are given, not learned."""
        return False

    @property
    def schedule(self) -> None:
        """There is no noise schedule here."""

    @property
    def steps(self) -> None:
        """There is no time here."""


class VAEConfig(LatentsConfig):
    """A variational autoencoder: one latent (Kingma and Welling 2014)."""

    kind: Literal["vae"]
    blocks: int = Field(2, gt=0, description="Residual blocks per level.")


class HierarchicalVAEConfig(LatentsConfig):
    """Latents drawn one after the other; in `mhvae` each sees only the one before it."""

    kind: Literal["hvae", "mhvae"]
    depth: int = Field(4, gt=0, description="T, the number of latents.")
    blocks: int = Field(1, gt=0, description="Residual blocks per level and conditional.")

    @property
    def markovian(self) -> bool:
        """Whether each conditional sees one latent."""
        return self.kind == "mhvae"


class LatentVDMConfig(ConfigModel):
    """A VDM of a VAE's latents, for images too large for a VDM of their pixels.

    In two phases, with the trained VAE that is in `of` as it is; or jointly with a new `vae`.
    """

    kind: Literal["latent_vdm"]
    of: str | None = Field(
        None, description="The trained VAE: a run's folder (its newest checkpoint), or a model's."
    )
    ema: AverageConfig | None = Field(
        None, description="Which average of its weights; null is the first that it keeps."
    )
    vae: VAEConfig | None = Field(
        None, description="A new one, trained together with the VDM. With `of` it is the one there."
    )
    network: NetworkConfig
    schedule: ScheduleConfig = ScheduleConfig(gamma_0=-8.0)
    steps: int | None = Field(None, gt=0, description="T; null is continuous time.")
    prediction: Literal["epsilon", "x", "v", "score"] = "epsilon"
    conditional: bool = Field(True, description="Condition on the class label.")
    drop_label: float = Field(
        0.1, ge=0, le=1, description="Share of labels replaced by the null condition in training."
    )

    @property
    def joint(self) -> bool:
        """Whether the VAE is trained too."""
        return self.of is None

    @property
    def learns_labels(self) -> bool:
        """Labels are given, not learned."""
        return False

    @model_validator(mode="after")
    def _has_a_vae(self) -> "LatentVDMConfig":
        if self.of is None and self.vae is None:
            raise ValueError("give `of`, a trained VAE, or `vae`, one to be trained with the VDM")
        if self.of is None and self.ema is not None:
            raise ValueError("ema chooses an average of the VAE in `of`, and there is none")
        if self.schedule.kind == "adaptive":
            raise ValueError(
                "schedule.kind=adaptive has a latent of its own, which is not inferred from "
                "latents; give another schedule"
            )
        return self
