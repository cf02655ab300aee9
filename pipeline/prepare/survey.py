"""What a look at images finds: counts, sizes, defects and exact pixel sums that can be added up.

All sums are integers, so the statistics of a set do not depend on who looked at which part of it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from pipeline.data.decode import Defect, Pixels, SampleError, Shape, extension_of
from pipeline.data.manifest import MOST_CLASSES
from pipeline.errors import InputError
from pipeline.prepare.image_policy import ImagePolicy, stored


class BadImage(NamedTuple):
    """An image that cannot be used."""

    defect: str
    place: str
    detail: str

    def __str__(self) -> str:
        """As in error messages."""
        return f"{self.place}: {self.defect}: {self.detail}"


@dataclass
class Survey:
    """Counts, shape and pixel sums of the usable images of a source, or of a part of it."""

    samples: int = 0
    image_bytes: int = 0  # encoded; for arrays, as arrays
    shape: Shape | None = None
    label_counts: Counter[int] = field(default_factory=Counter)
    extensions: Counter[str] = field(default_factory=Counter)
    bad: list[BadImage] = field(default_factory=list)
    sums: list[int] = field(default_factory=lambda: [0, 0, 0])  # of pixels, per channel
    squares: list[int] = field(default_factory=lambda: [0, 0, 0])

    @property
    def known_shape(self) -> Shape:
        """The shape that all images have. Raises ValueError before the first image."""
        if self.shape is None:
            raise ValueError("no image was surveyed yet")
        return self.shape

    def mean_std(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of pixel / 255, per channel."""
        channels, height, width = self.known_shape
        n = self.samples * height * width
        sums, squares = self.sums[:channels], self.squares[:channels]
        variances = [(n * q - s * s) / n**2 for s, q in zip(sums, squares, strict=True)]
        return tuple(s / n / 255 for s in sums), tuple(math.sqrt(v) / 255 for v in variances)


def merged(parts: Iterable[Survey]) -> Survey:
    """The survey of all parts together; their order is that of `bad`."""
    whole = Survey()
    for part in parts:
        whole.samples += part.samples
        whole.image_bytes += part.image_bytes
        whole.shape = whole.shape or part.shape
        whole.label_counts += part.label_counts
        whole.extensions += part.extensions
        whole.bad += part.bad
        whole.sums = [a + b for a, b in zip(whole.sums, part.sums, strict=True)]
        whole.squares = [a + b for a, b in zip(whole.squares, part.squares, strict=True)]
    return whole


class Surveyor:
    """Looks at images one by one. The first usable one decides the shape, if none is given."""

    def __init__(self, policy: ImagePolicy, classes: int | None, shape: Shape | None) -> None:
        """Labels must be below `classes`; None: they are not known beforehand."""
        self.policy, self.classes = policy, classes
        self.survey = Survey(shape=shape)

    def add(self, image: bytes | Pixels | None, label: int | None, place: str) -> bool:
        """Take in one image; False if it is unusable and the policy is to skip it.

        Raises InputError for an unusable image by policy, and always for a label out of range.
        """
        self._check_label(label, place)
        try:
            pixels, kept = stored(image, self.policy)
            self._check_shape(pixels.shape)
        except SampleError as error:
            self.refuse(error, place)
            return False
        survey = self.survey
        survey.samples += 1
        survey.image_bytes += pixels.size if kept is None else len(kept)
        survey.extensions["png" if kept is None else extension_of(kept)] += 1
        if label is not None:
            survey.label_counts[label] += 1
        for channel, values in enumerate(pixels.reshape(len(pixels), -1).astype(np.int64)):
            survey.sums[channel] += int(values.sum())
            survey.squares[channel] += int(values @ values)
        return True

    def refuse(self, error: SampleError, place: str) -> None:
        """Note an unusable sample. Raises InputError by policy."""
        if self.policy.on_bad_image == "raise":
            raise InputError(
                f"{error.at(place)}; repair or remove it, or set on_bad_image: skip "
                "(or convert, if it is of another mode)"
            ) from error
        self.survey.bad.append(BadImage(error.defect.value, place, error.detail))

    def _check_label(self, label: int | None, place: str) -> None:
        classes = self.classes or MOST_CLASSES
        if label is not None and not 0 <= label < classes:
            raise InputError(
                f"{place}: label {label} is outside 0..{classes - 1}; correct it, or class_names"
            )

    def _check_shape(self, shape: tuple[int, ...]) -> None:
        channels, height, width = shape
        survey = self.survey
        survey.shape = survey.shape or (channels, height, width)
        if shape != survey.shape:
            raise SampleError(
                Defect.WRONG_SHAPE, f"{shape}, the images before it have {survey.shape} (C,H,W)"
            )
