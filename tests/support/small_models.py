"""A small model of each family, written as `jobs.export` leaves it."""

from pathlib import Path

import torch
from pydantic import TypeAdapter

from pipeline.config.family import GenerativeConfig
from pipeline.model.export import ModelCard
from pipeline.model.export_folder import write_export
from pipeline.model.generative import build_generative
from pipeline.storage import open_storage

SHAPE, CLASSES = (1, 8, 8), 3
LATENTS = {"latent_channels": 2, "widths": [8, 8], "blocks": 1}
NETWORK = {"kind": "downsampling_unet", "width": 8, "multipliers": [1], "blocks": 1}
FAMILIES = {
    "vdm": {"network": NETWORK},
    "vae": {"kind": "vae", **LATENTS},
    "hvae": {"kind": "hvae", "depth": 3, **LATENTS},
    "mhvae": {"kind": "mhvae", "depth": 2, **LATENTS},
    "latent_vdm": {"kind": "latent_vdm", "vae": {"kind": "vae", **LATENTS}, "network": NETWORK},
}


def configured(name: str, **changes: object) -> GenerativeConfig:
    """The configuration of a family's small model."""
    adapter: TypeAdapter[GenerativeConfig] = TypeAdapter(GenerativeConfig)
    return adapter.validate_python(FAMILIES[name] | changes)


def write_model(folder: Path, name: str, **changes: object) -> str:
    """Write one, none of whose weights is zero, into `folder`; return where it is."""
    config = configured(name, **changes)
    model = build_generative(config, SHAPE, CLASSES, seed=1, levels=256)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    card = ModelCard(
        model=config, shape=SHAPE, levels=256, classes=CLASSES, class_names=("a", "b", "c"),
        step=1, run=name, mlflow_run_id=None, dataset_digest="",
    )  # fmt: skip
    write_export(open_storage(str(folder)), model.state_dict(), card)
    return str(folder)
