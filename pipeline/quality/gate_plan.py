"""What a gate is to do: a finished sample set, and the training images that it is held against."""

from dataclasses import dataclass

from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.base import JobConfig
from pipeline.config.gate import GateConfig
from pipeline.config.quality import DistancesConfig, GateJobConfig, QualityConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.decode import Shape
from pipeline.data.select import selected
from pipeline.data.transform import seen_shape
from pipeline.errors import InputError
from pipeline.quality import features
from pipeline.storage import Location, open_storage

WORK = "gate"
CHECKS = (
    "class_imbalance",
    "duplicates",
    "constant",
    "saturated",
    "near_duplicates",
    "memorised",
    "frechet",
)


@dataclass(frozen=True)
class Plan:
    """A gate that has passed its own checks."""

    config: GateJobConfig
    samples: ShardedDataset
    against: ShardedDataset
    work: Location

    def text(self) -> str:
        """The plan in words."""
        limits = {name: getattr(self.config.gate, name) for name in CHECKS}
        asked = ", ".join(f"{n} ≤ {limit:g}" for n, limit in limits.items() if limit is not None)
        return (
            f"plan: {self.samples.info.samples:,} samples of {self.config.samples} against "
            f"{self.against.info.samples:,} training images: {asked}"
        )


def make_plan(config: GateJobConfig) -> Plan:
    """Open the set and the training images and see that they can be compared; write nothing.

    Raises:
        InputError: a set that is not there or too small, images of other shapes, no feature
            network where one is named.
    """
    check_submitted_paths(config, "samples")
    samples = open_dataset(config.path(config.samples))
    info = samples.info
    against = check_gate(config.gate, config, config.samples, info.shape, info.levels)
    if info.samples < 2:
        raise InputError(f"{config.samples} has one sample; a gate needs two or more")
    work = config.work or f"{config.samples}/{WORK}"
    return Plan(config, samples, against, open_storage(config.path(work)))


def check_gate(
    gate: GateConfig, root: JobConfig, samples: str, shape: Shape, levels: int
) -> ShardedDataset:
    """Open the training images and see that samples of this kind can be compared with them.

    Raises:
        InputError: there are none, or fewer than two; images of another shape than the samples
            have; no feature network where one is named.
    """
    against = selected(open_dataset(root.path(gate.against.path)), gate.against.select)
    shown = seen_shape(gate.against.transform, against.info.shape)
    if (shape, levels) != (shown, against.info.levels):
        raise InputError(
            f"{samples} has images {shape} of {levels} levels, and {gate.against.path} shows "
            f"{shown} of {against.info.levels}; set gate.against.transform to what the model was "
            "trained on"
        )
    if against.info.samples < 2:
        raise InputError(f"{gate.against.path} has one image; a gate needs two or more")
    if gate.features is not None:
        features.check_images(gate.features, root, samples, shape, levels)
    return against


def quality_config(config: GateJobConfig) -> QualityConfig:
    """The request for features that the gate makes."""
    assert config.gate.features is not None
    return QualityConfig(
        root=config.root,
        samples=(config.samples,),
        against=config.gate.against,
        features=config.gate.features,
        distances=DistancesConfig(),
        output=config.work or f"{config.samples}/{WORK}",
        batch_size=config.batch_size,
        pool=config.pool,
    )
