"""Which stored images are used, and what is done to them on the way to the model."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PlainSerializer

from pipeline.config.base import ConfigModel


class SplitConfig(ConfigModel):
    """One of two disjoint parts of a set, by the keys of its samples.

    A sample's part is a function of (seed, key) alone: packing the set anew, in another order or
    with more samples, moves no sample from one part to the other.
    """

    part: Literal["train", "validation"]
    fraction: float = Field(gt=0, lt=1, description="Of the samples, for validation; about.")
    seed: int = Field(0, ge=0, lt=2**63)


class SelectConfig(ConfigModel):
    """Which samples of a set are used; all by default.

    Anything else needs to know every sample's key and label: the shards are read through once,
    and what was found is kept beside the manifest.
    """

    split: SplitConfig | None = None
    labels: tuple[int, ...] | None = Field(
        None, min_length=1, description="Only samples with one of these labels."
    )


class ComponentConfig(ConfigModel):
    """One of the sets that are mixed."""

    path: str = Field(description="Folder or URL of a set made by jobs.prepare.")
    weight: int = Field(1, gt=0, le=10_000, description="Whole: 7 and 3 take 7 images for every 3.")
    select: SelectConfig | None = Field(
        None, description="Which samples of this set; null takes data.select."
    )


def _components(value: Any) -> Any:
    return ({"path": value},) if isinstance(value, str) else value


def _as_written(components: tuple[ComponentConfig, ...]) -> Any:
    plain = len(components) == 1 and components[0].select is None
    return components[0].path if plain else components


Components = Annotated[
    tuple[ComponentConfig, ...],
    Field(min_length=1),
    BeforeValidator(_components),
    PlainSerializer(_as_written),
]
"""Sets to be mixed; the path or URL of a single one may be written alone."""


class TransformConfig(ConfigModel):
    """From the stored image to the one that the model sees; nothing by default.

    `resize` comes first, at decoding; then the random part, a function of (seed, global sample
    index) alone. Evaluation takes the centre crop and never pads or flips.
    """

    resize: int | None = Field(
        None, gt=0, description="The centre square, scaled to this side; images may vary in size."
    )
    crop: int | None = Field(
        None, gt=0, description="Side of a square cut from a random place; needs H and W >= crop."
    )
    pad: int = Field(0, ge=0, description="Black pixels put around the image before the crop.")
    flip: bool = Field(
        False,
        description="Mirror half of the images, left to right. The model then learns the mixture "
        "of both: bits/dim on unmirrored images are not comparable with a run without it.",
    )
