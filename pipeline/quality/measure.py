"""Sample sets against data: each pair's distances, from features that are kept on storage."""

from dataclasses import dataclass

from torch import Tensor

from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.base import ConfigModel
from pipeline.config.features import ImagesConfig
from pipeline.config.quality import QualityConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.decode import Shape
from pipeline.data.transform import seen_shape
from pipeline.errors import InputError
from pipeline.quality.distances import (
    Moments,
    frechet_distance,
    kernel_distance,
    moments,
    precision_recall,
)
from pipeline.quality.features import (
    FeatureNames,
    FeatureSet,
    check_images,
    extract,
    feature_names,
    open_images,
)
from pipeline.storage import Location, open_storage

FEATURES = "features"


class SetQuality(ConfigModel):
    """One set's distances from the data."""

    path: str
    images: int
    manifest_sha256: str
    frechet: float
    kernel: float
    kernel_deviation: float  # of one subset's
    kernel_subset: int  # images of each set in it
    precision: float
    recall: float


class QualityReport(ConfigModel):
    """All sets' distances, what they are called, and what they were measured against."""

    names: FeatureNames
    dims: int  # features of an image
    against: str
    against_images: int
    against_manifest_sha256: str
    subsets: int
    neighbour: int
    neighbour_images: int
    sets: tuple[SetQuality, ...]


@dataclass(frozen=True)
class Plan:
    """A measurement that has passed its checks."""

    config: QualityConfig
    names: FeatureNames
    samples: tuple[ShardedDataset, ...]
    against: ShardedDataset
    output: Location

    def text(self) -> str:
        """The plan in words."""
        sets = "".join(
            f"\n  {path}: {dataset.info.samples:,} images {dataset.info.shape}"
            for path, dataset in zip(self.config.samples, self.samples, strict=True)
        )
        return (
            f"plan: {self.names.frechet}, {self.names.kernel}, precision and recall "
            f"({self.names.network}), to {self.output}{sets}\n"
            f"  against {self.config.against.path}: {self.against.info.samples:,} images"
        )


def make_plan(config: QualityConfig) -> Plan:
    """Open all sets and see that they can be compared; write nothing.

    Raises:
        InputError: a set or network that is not there, images of different shapes, too few
            images, an output that a submitted job would lose.
    """
    check_submitted_paths(config, "output")
    names = feature_names(config.features, config)
    against = open_images(config, config.against)
    samples = tuple(open_images(config, ImagesConfig(path=path)) for path in config.samples)
    shown = seen_shape(config.against.transform, against.info.shape)
    for path, dataset in zip(config.samples, samples, strict=True):
        _check_fits(config, path, dataset, dataset.info.shape, shown)
    _check_fits(config, config.against.path, against, shown, shown)
    return Plan(config, names, samples, against, open_storage(config.path(config.output)))


def _check_fits(
    config: QualityConfig, path: str, dataset: ShardedDataset, shape: Shape, shown: Shape
) -> None:
    check_images(config.features, config, path, shape, dataset.info.levels)
    least = config.distances.neighbour + 1
    if dataset.info.samples < max(2, least):
        raise InputError(
            f"{path} has {dataset.info.samples} images; distances take {max(2, least)} or more"
        )
    if shape != shown:
        raise InputError(
            f"{path} has images {shape}, and {config.against.path} shows {shown}; set "
            "against.transform to what the model was trained on"
        )


def measure(plan: Plan) -> QualityReport:
    """Features through the pool, then the distances here. A Ray cluster must be connected."""
    config, place = plan.config, plan.output / FEATURES
    against = extract(config, config.against, place)
    data_moments = moments(against.parts())
    data_rows = against.spread(config.distances.neighbour_images)
    rows = []
    for path, dataset in zip(config.samples, plan.samples, strict=True):
        found = extract(config, ImagesConfig(path=path), place)
        rows.append(_distances(config, path, dataset, found, data_moments, data_rows))
    own = config.distances
    return QualityReport(
        names=plan.names,
        dims=len(data_moments.mean),
        against=config.path(config.against.path),
        against_images=plan.against.info.samples,
        against_manifest_sha256=plan.against.info.manifest_sha256,
        subsets=own.subsets,
        neighbour=own.neighbour,
        neighbour_images=own.neighbour_images,
        sets=tuple(rows),
    )


def _distances(
    config: QualityConfig,
    path: str,
    dataset: ShardedDataset,
    found: FeatureSet,
    data_moments: Moments,
    data_rows: Tensor,
) -> SetQuality:
    own = config.distances
    rows = found.spread(own.neighbour_images)
    kernel = kernel_distance(rows, data_rows, subset=own.subset, subsets=own.subsets, seed=own.seed)
    share = precision_recall(rows, data_rows, neighbour=own.neighbour)
    return SetQuality(
        path=config.path(path),
        images=dataset.info.samples,
        manifest_sha256=dataset.info.manifest_sha256,
        frechet=frechet_distance(moments(found.parts()), data_moments),
        kernel=kernel.mean,
        kernel_deviation=kernel.deviation,
        kernel_subset=kernel.subset,
        precision=share.precision,
        recall=share.recall,
    )
