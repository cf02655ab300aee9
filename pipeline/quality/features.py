"""Images to features: which network, what its distances are called, and the work over a set.

Distances between features of different networks have nothing to do with each other, so every name
has the network in it: FID and KID are those of Inception v3 and of nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import pyarrow as pa
import torch
from torch import Tensor

from pipeline.cluster.kept_ranges import KeptRanges, Range, finish_ranges
from pipeline.config.base import JobConfig
from pipeline.config.features import ClassifierFeatures, FeaturesConfig, ImagesConfig
from pipeline.config.quality import QualityConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.decode import Shape
from pipeline.data.select import selected
from pipeline.data.stream import iterate_once
from pipeline.errors import InputError
from pipeline.model.classifier_export import load_classifier, load_classifier_card
from pipeline.quality.inception import InceptionNetwork
from pipeline.storage import Location, open_storage
from vdm_core.decoder import encode
from vdm_core.networks.classifier import NoiseAwareClassifier

_BATCHES_PER_RANGE = 4


class FeatureNames(NamedTuple):
    """What the distances between features of one network are called."""

    frechet: str
    kernel: str
    precision: str
    recall: str
    network: str


class FeatureNetwork(Protocol):
    """uint8 images (B,C,H,W) -> features (B,D), float32; each image by itself."""

    def __call__(self, images: Tensor) -> Tensor: ...


def feature_names(config: FeaturesConfig, root: JobConfig) -> FeatureNames:
    """The names; FID and KID for Inception only.

    Raises:
        InputError: there is no classifier where the configuration says.
    """
    if isinstance(config, ClassifierFeatures):
        digest = load_classifier_card(open_storage(root.path(config.path))).weights_sha256
        network = f"classifier features {digest[:12]} at γ = {config.gamma:g}"
        return FeatureNames(
            frechet="classifier Fréchet distance",
            kernel="classifier kernel distance",
            precision="classifier precision",
            recall="classifier recall",
            network=network,
        )
    network = f"Inception v3 weights {config.sha256[:12]}"
    return FeatureNames("FID", "KID", "Inception precision", "Inception recall", network)


def check_images(
    config: FeaturesConfig, root: JobConfig, path: str, shape: Shape, levels: int
) -> None:
    """Refuse images (of the set at `path`) that the network cannot see.

    Raises:
        InputError: names the set and both shapes.
    """
    if not isinstance(config, ClassifierFeatures):
        if levels != 256 or shape[0] not in (1, 3):
            raise InputError(
                f"{path} has images {shape} of {levels} levels, and Inception sees 256 levels of "
                "grey or RGB; take features.kind=classifier"
            )
        return
    card = load_classifier_card(open_storage(root.path(config.path)))
    if shape[0] != card.shape[0]:
        raise InputError(
            f"{path} has images {shape}, and the classifier {config.path} was trained on "
            f"{card.shape}; take features of a classifier of this data"
        )


def open_network(
    config: FeaturesConfig, root: JobConfig, levels: int, device: torch.device
) -> FeatureNetwork:
    """The network, on the device, in evaluation mode."""
    if isinstance(config, ClassifierFeatures):
        classifier, _ = load_classifier(open_storage(root.path(config.path)))
        return ClassifierNetwork(classifier.to(device), config.gamma, levels)
    return InceptionNetwork(root.path(config.weights), config.sha256, device)


class ClassifierNetwork:
    """The features of a noise-aware classifier of images without noise."""

    def __init__(self, classifier: NoiseAwareClassifier, gamma: float, levels: int) -> None:
        self.classifier, self.gamma, self.levels = classifier, gamma, levels

    @torch.no_grad()
    def __call__(self, images: Tensor) -> Tensor:
        """(B,C,H,W) uint8 on the classifier's device -> (B,D)."""
        gamma = torch.full((len(images),), self.gamma, device=images.device)
        return self.classifier.features(encode(images, self.levels), gamma).float()


class FeatureWorker:
    """A network and a set in an actor: ranges of images to their features."""

    def __init__(self, config: QualityConfig, images: ImagesConfig) -> None:
        self.config, self.images = config, images
        self.device = torch.device("cuda" if config.pool.gpus_per_actor > 0 else "cpu")
        self.dataset = open_images(config, images)
        levels = self.dataset.info.levels
        self.network = open_network(config.features, config, levels, self.device)

    def __call__(self, items: Range) -> pa.Table:
        """One row an image: `features`, a list of D numbers."""
        parts = [
            self.network(batch.images.to(self.device).contiguous()).cpu()
            for batch in iterate_once(
                self.dataset,
                start=items.start,
                stop=items.stop,
                batch_size=self.config.batch_size,
                transform=self.images.transform,
            )
        ]
        features = torch.cat(parts)
        flat = pa.array(features.flatten().numpy())
        return pa.table({"features": pa.FixedSizeListArray.from_arrays(flat, features.shape[1])})


def open_images(config: QualityConfig, images: ImagesConfig) -> ShardedDataset:
    """The set, or the selected part of it. Raises InputError where there is none."""
    return selected(open_dataset(config.path(images.path)), images.select)


class FeatureSet:
    """The features of a set, kept on storage; read part by part."""

    def __init__(self, kept: KeptRanges) -> None:
        self.kept = kept

    def parts(self) -> Iterator[Tensor]:
        """(n,D) each, in the order of the set."""
        for table in self.kept.tables():
            column = table["features"].combine_chunks()
            flat = column.flatten().to_numpy(zero_copy_only=False).copy()
            yield torch.from_numpy(flat).view(len(column), -1)

    def spread(self, count: int) -> Tensor:
        """At most `count` rows, evenly from the whole set."""
        total, rows, first = self.kept.total, [], 0
        wanted = torch.arange(min(count, total)) * total // min(count, total)
        for part in self.parts():
            here = wanted[(wanted >= first) & (wanted < first + len(part))] - first
            rows.append(part[here])
            first += len(part)
        return torch.cat(rows)


def extract(config: QualityConfig, images: ImagesConfig, output: Location) -> FeatureSet:
    """The features of a set through the pool; what is kept in `output` is not computed again."""
    dataset = open_images(config, images)
    names = feature_names(config.features, config)
    request = {
        "features": names.network,
        "data_manifest_sha256": dataset.info.manifest_sha256,
        "select": images.select.model_dump_json(exclude_defaults=True),
        "transform": images.transform.model_dump_json(exclude_defaults=True),
        "batch_size": config.batch_size,
    }
    kept = KeptRanges.of_request(
        output, request, total=dataset.info.samples, size=config.batch_size * _BATCHES_PER_RANGE
    )
    what = f"features of {images.path}"
    finish_ranges(kept, FeatureWorker, (config, images), config.pool, what)
    return FeatureSet(kept)
