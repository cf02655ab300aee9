"""What a run trains: a model as it is configured, and the images as it is shown them."""

from dataclasses import dataclass
from typing import Self

import torch

from pipeline.config.family import AnyModelConfig
from pipeline.config.plan import ImagesConfig
from pipeline.config.train import TrainConfig
from pipeline.data.manifest import DatasetInfo
from pipeline.data.transform import seen_shape
from pipeline.model.family import Given, Model, build_family, check_family, read_given


@dataclass(frozen=True)
class Trained:
    """A model as it is configured, and the images (C,H,W) = `shape` that it is trained on.

    `classes`: of the data set; None if it has no labels. `levels`: values of a channel. `given`:
    what the model takes from another one.
    """

    model: AnyModelConfig
    shape: tuple[int, int, int]
    classes: int | None
    levels: int
    given: Given = None

    @classmethod
    def by(cls, config: TrainConfig, images: DatasetInfo | ImagesConfig) -> Self:
        """What `config` trains on `images`, which are as they are stored.

        Raises:
            InputError: a crop larger than the image, or as `read_given`.
        """
        shape = seen_shape(config.data.transform, images.shape)
        return cls(config.model, shape, images.classes, images.levels, read_given(config))

    def check(self) -> int:
        """Try the model on one image, without memory or compute; return its number of parameters.

        Raises:
            InputError: as `check_family`.
        """
        return check_family(self.model, self.shape, self.classes, self.levels, self.given)

    def build(self) -> Model:
        """The model, on whatever device and of whatever tensors are being made."""
        return build_family(self.model, self.shape, self.classes, 0, self.levels, self.given)

    def outline(self) -> Model:
        """The model for counting its work: without memory, unless it takes weights of another."""
        with torch.device("meta" if self.given is None else "cpu"):
            return self.build()
