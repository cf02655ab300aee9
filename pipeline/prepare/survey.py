"""Look at every image of a source before anything is written: all errors are found here."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.data.decode import (
    CHANNELS,
    Defect,
    Pixels,
    SampleError,
    Shape,
    convert_image,
    decode_image,
    encode_png,
    extension_of,
)
from pipeline.data.writer import usable_key
from pipeline.errors import InputError
from pipeline.prepare.sources.base import Source, SourceSample
from pipeline.progress import Progress

Sums = NDArray[np.float64]  # (3,): one for each channel there may be


@dataclass(frozen=True)
class ImagePolicy:
    """Which images are accepted, and what happens to the others."""

    convert: Literal["L", "RGB"] | None
    max_pixels: int
    on_bad_image: Literal["raise", "skip"]


@dataclass
class Survey:
    """What is in a source: counts, shape and pixel statistics of its usable images."""

    policy: ImagePolicy
    classes: int | None  # labels must be below it; None: not known beforehand
    samples: int = 0
    image_bytes: int = 0  # encoded; for arrays, as arrays
    shape: Shape | None = None
    label_counts: Counter[int] = field(default_factory=Counter)
    extensions: Counter[str] = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    _sum: Sums = field(default_factory=lambda: np.zeros(3), init=False)
    _squares: Sums = field(default_factory=lambda: np.zeros(3), init=False)

    def add(self, image: bytes | Pixels | None, label: int | None, place: str) -> bool:
        """Take in one image; False if it is unusable and the policy is to skip it.

        Raises InputError for an unusable image by policy, and always for a label out of range.
        """
        self._check_label(label, place)
        try:
            pixels, kept = stored(image, self.policy)
            self._check_shape(pixels.shape)
        except SampleError as error:
            if self.policy.on_bad_image == "raise":
                raise InputError(
                    f"{error.at(place)}; repair or remove it, or set on_bad_image: skip "
                    "(or convert, if it is of another mode)"
                ) from error
            self.skipped.append(str(error.at(place)))
            return False
        self.samples += 1
        self.image_bytes += pixels.size if kept is None else len(kept)
        self.extensions["png" if kept is None else extension_of(kept)] += 1
        if label is not None:
            self.label_counts[label] += 1
        self._add_pixels(pixels)
        return True

    @property
    def known_shape(self) -> Shape:
        """The shape that all images have. Raises ValueError before the first image."""
        if self.shape is None:
            raise ValueError("no image was surveyed yet")
        return self.shape

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of pixel / 255, per channel."""
        channels, height, width = self.known_shape
        pixels = self.samples * height * width
        mean = self._sum[:channels] / pixels
        std = np.sqrt(np.maximum(self._squares[:channels] / pixels - mean**2, 0))
        return tuple((mean / 255).tolist()), tuple((std / 255).tolist())

    def _check_label(self, label: int | None, place: str) -> None:
        if label is not None and (
            label < 0 or (self.classes is not None and label >= self.classes)
        ):
            most = "" if self.classes is None else str(self.classes - 1)
            raise InputError(
                f"{place}: label {label} is outside 0..{most}; correct it, or class_names"
            )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        channels, height, width = shape
        self.shape = self.shape or (channels, height, width)
        if shape != self.shape:
            raise SampleError(
                Defect.WRONG_SHAPE, f"{shape}, the images before it have {self.shape} (C,H,W)"
            )

    def _add_pixels(self, pixels: Pixels) -> None:
        flat = pixels.reshape(len(pixels), -1).astype(np.float64)
        self._sum[: len(flat)] += flat.sum(1)
        self._squares[: len(flat)] += np.einsum("cp,cp->c", flat, flat)


def survey_source(source: Source, survey: Survey, split: str) -> set[tuple[int, int]]:
    """Take every sample of `source` into `survey`; return the (chunk, row) of those left out.

    Raises InputError for anything that must be mended, and for a source with no usable image.
    """
    left_out = set()
    progress = Progress(f"{split}: checked", source.samples)
    for chunk in range(source.chunks):
        samples = source.read(chunk)
        for row, sample in enumerate(samples):
            if not usable_key(sample.key):
                raise InputError(f"{sample.place}: the name is not usable as a key; rename it")
            if not survey.add(sample.image, sample.label, sample.place):
                left_out.add((chunk, row))
        progress.add(len(samples))
    if not survey.samples:
        raise InputError(f"{split}: none of {source.samples} images is usable: {survey.skipped[0]}")
    return left_out


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
