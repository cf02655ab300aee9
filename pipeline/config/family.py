"""`model`: everything that `jobs.train` can train, told apart by its `kind`."""

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from pipeline.config.ladder import HierarchicalVAEConfig, LatentVDMConfig, VAEConfig
from pipeline.config.model import ModelConfig, ScheduledClassifierConfig


def _kind(value: Any) -> Any:
    """`kind`, which may be left out for a VDM."""
    return value.get("kind", "vdm") if isinstance(value, dict) else getattr(value, "kind", None)


AnyVAEConfig = VAEConfig | HierarchicalVAEConfig

GenerativeConfig = Annotated[
    Annotated[ModelConfig, Tag("vdm")]
    | Annotated[VAEConfig, Tag("vae")]
    | Annotated[HierarchicalVAEConfig, Tag("hvae")]
    | Annotated[HierarchicalVAEConfig, Tag("mhvae")]
    | Annotated[LatentVDMConfig, Tag("latent_vdm")],
    Discriminator(_kind),
]
"""What images can be drawn from, and has a bound on their likelihood."""

AnyModelConfig = Annotated[
    Annotated[ModelConfig, Tag("vdm")]
    | Annotated[VAEConfig, Tag("vae")]
    | Annotated[HierarchicalVAEConfig, Tag("hvae")]
    | Annotated[HierarchicalVAEConfig, Tag("mhvae")]
    | Annotated[LatentVDMConfig, Tag("latent_vdm")]
    | Annotated[ScheduledClassifierConfig, Tag("classifier")],
    Discriminator(_kind),
]
"""The same, and what learns something about them."""
