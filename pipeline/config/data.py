"""What is done to images between storage and model."""

from pydantic import Field

from pipeline.config.base import ConfigModel


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
