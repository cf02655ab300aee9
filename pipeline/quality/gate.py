"""The gate before publishing: checks of a finished sample set, and the mark that they leave on it.

gate.json      every check with its value, limit and reason
gate.png       the samples nearest to training images, beside them, and all distances
dataset.json   gets "gate": "passed" or "failed"
gate/          what was measured, kept so that a killed gate goes on
"""

import logging
from dataclasses import dataclass, replace

import numpy as np

from pipeline.config.base import ConfigModel
from pipeline.config.features import ImagesConfig
from pipeline.data.dataset import ShardedDataset
from pipeline.data.manifest import DATASET, info_bytes
from pipeline.quality import features
from pipeline.quality.distances import frechet_distance, moments
from pipeline.quality.gate_plan import Plan, quality_config
from pipeline.quality.neighbours import Neighbours, nearest_neighbours
from pipeline.quality.pixels import pixel_counts

log = logging.getLogger(__name__)


class Check(ConfigModel):
    """One property of the set: its value, the most it may be, and in words what was found."""

    name: str
    value: float
    limit: float
    found: str

    @property
    def passed(self) -> bool:
        """Whether the value is within the limit."""
        return self.value <= self.limit


class GateReport(ConfigModel):
    """Contents of `gate.json`."""

    passed: bool
    samples: str
    samples_manifest_sha256: str
    against: str
    against_manifest_sha256: str
    request: str  # the limits, as JSON: equal requests on equal sets have equal outcomes
    checks: tuple[Check, ...]


@dataclass(frozen=True)
class NeighbourEvidence:
    """Distances to the nearest training image: of samples, and of training images themselves."""

    samples: Neighbours
    data: Neighbours
    near: float  # the quantile of `data` below which a sample counts as memorised


def run_gate(plan: Plan) -> tuple[GateReport, NeighbourEvidence | None]:
    """Measure and judge; a Ray cluster must be connected."""
    gate = plan.config.gate
    checks = [*_class_checks(plan), *_pixel_checks(plan), *_near_duplicate_checks(plan)]
    evidence = _evidence(plan) if gate.memorised is not None else None
    if evidence is not None and gate.memorised is not None:
        share = float((evidence.samples.distance <= evidence.near).mean())
        found = (
            f"{share:.2%} of {len(evidence.samples.places):,} samples are within "
            f"{evidence.near:.2f} levels of a training image, as {gate.memorised_quantile:.2%} of "
            "training images are of another"
        )
        checks.append(Check(name="memorised", value=share, limit=gate.memorised, found=found))
    checks += _frechet_checks(plan)
    report = GateReport(
        passed=all(check.passed for check in checks),
        samples=plan.config.path(plan.config.samples),
        samples_manifest_sha256=plan.samples.info.manifest_sha256,
        against=plan.config.path(gate.against.path),
        against_manifest_sha256=plan.against.info.manifest_sha256,
        request=gate.model_dump_json(),
        checks=tuple(checks),
    )
    return report, evidence


def mark(samples: ShardedDataset, *, passed: bool) -> None:
    """Write the outcome into the set's `dataset.json`; nothing else of it changes."""
    info = replace(samples.info, gate="passed" if passed else "failed")
    (samples.folder / DATASET).write_bytes(info_bytes(info))


def _class_checks(plan: Plan) -> list[Check]:
    limit, counts = plan.config.gate.class_imbalance, np.array(plan.samples.label_counts)
    if limit is None:
        return []
    if not len(counts):
        log.info("%s has no labels, so there are no classes to check", plan.config.samples)
        return []
    off = np.abs(counts / counts.mean() - 1)
    worst = int(off.argmax())
    names = plan.samples.info.class_names or tuple(map(str, range(len(counts))))
    found = f"{names[worst]} has {counts[worst]:,} samples, the mean class {counts.mean():,.1f}"
    return [Check(name="class_imbalance", value=float(off[worst]), limit=limit, found=found)]


def _pixel_checks(plan: Plan) -> list[Check]:
    gate = plan.config.gate
    if gate.duplicates is None and gate.constant is None and gate.saturated is None:
        return []
    counts = pixel_counts(plan.config, plan.work)
    asked = (
        ("duplicates", counts.duplicates, gate.duplicates, "have the pixels of another"),
        ("constant", counts.constant, gate.constant, f"span {gate.span} levels or fewer"),
        (
            "saturated",
            counts.saturated,
            gate.saturated,
            f"have more than {gate.ends:.1%} of their pixels at the two ends",
        ),
    )
    return [
        Check(
            name=name,
            value=count / counts.images,
            limit=limit,
            found=f"{count:,} of {counts.images:,} samples {what}",
        )
        for name, count, limit, what in asked
        if limit is not None
    ]


def _near_duplicate_checks(plan: Plan) -> list[Check]:
    gate = plan.config.gate
    if gate.near_duplicates is None:
        return []
    own = ImagesConfig(path=plan.config.samples)
    distance = nearest_neighbours(plan.config, own, own, plan.work).distance
    share = float((distance <= gate.near).mean())
    found = (
        f"{share:.2%} of {len(distance):,} samples have another within {gate.near:g} levels; the "
        f"nearest two differ by {distance.min():.2f}"
    )
    return [Check(name="near_duplicates", value=share, limit=gate.near_duplicates, found=found)]


def _evidence(plan: Plan) -> NeighbourEvidence:
    gate, own = plan.config.gate, ImagesConfig(path=plan.config.samples)
    samples = nearest_neighbours(plan.config, own, gate.against, plan.work)
    data = nearest_neighbours(plan.config, gate.against, gate.against, plan.work)
    near = float(np.quantile(data.distance, gate.memorised_quantile))
    return NeighbourEvidence(samples, data, near)


def _frechet_checks(plan: Plan) -> list[Check]:
    gate = plan.config.gate
    if gate.frechet is None or gate.features is None:
        return []
    config = quality_config(plan.config)
    names = features.feature_names(gate.features, config)
    samples = features.extract(config, ImagesConfig(path=plan.config.samples), plan.work)
    data = features.extract(config, gate.against, plan.work)
    value = frechet_distance(moments(samples.parts()), moments(data.parts()))
    found = f"{names.frechet} {value:.3f} from the training images ({names.network})"
    return [Check(name="frechet", value=value, limit=gate.frechet, found=found)]
