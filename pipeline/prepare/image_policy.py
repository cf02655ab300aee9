"""Which images are accepted, and as which bytes they are stored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from pipeline.data.decode import (
    CHANNELS,
    Defect,
    Pixels,
    SampleError,
    convert_image,
    decode_image,
    encode_png,
    extension_of,
)
from pipeline.prepare.sources.base import SourceSample


@dataclass(frozen=True)
class ImagePolicy:
    """Which images are accepted, and what happens to the others."""

    convert: Literal["L", "RGB"] | None
    max_pixels: int
    on_bad_image: Literal["raise", "skip"]


def stored(image: bytes | Pixels | None, policy: ImagePolicy) -> tuple[Pixels, bytes | None]:
    """The pixels that will be stored and, if they are kept as they are, the original bytes.

    Raises SampleError for an image that the policy does not accept.
    """
    if image is None:
        raise SampleError(Defect.NO_IMAGE, "empty")
    wanted = CHANNELS[policy.convert] if policy.convert else None
    if isinstance(image, np.ndarray):
        return (np.repeat(image, 3, axis=0) if wanted == 3 else image), None
    try:
        pixels = decode_image(image, max_pixels=policy.max_pixels)
    except SampleError as error:
        if policy.convert is None or error.defect is not Defect.WRONG_SHAPE:
            raise
        return convert_image(image, policy.convert, max_pixels=policy.max_pixels), None
    if policy.convert is None or len(pixels) == wanted:
        return pixels, image
    return convert_image(image, policy.convert, max_pixels=policy.max_pixels), None


def encoded(sample: SourceSample, policy: ImagePolicy) -> tuple[bytes, str]:
    """Bytes and extension under which a surveyed sample is stored."""
    if isinstance(sample.image, bytes) and policy.convert is None:
        return sample.image, extension_of(sample.image)
    pixels, kept = stored(sample.image, policy)
    return (encode_png(pixels), "png") if kept is None else (kept, extension_of(kept))
