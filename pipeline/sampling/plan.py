"""A request for samples that has passed its checks: its rows, its shards and its identity."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pipeline.config.sample import SampleConfig
from pipeline.errors import InputError
from pipeline.metrics import Scalar, flatten
from pipeline.model.export import ModelCard, load_model, newest_model
from pipeline.model.generative import Generative
from pipeline.sampling.checks import (
    WALK_FIELDS,
    asked_rows,
    check_encoding,
    check_guidance,
    check_walk,
    scales_of,
)
from pipeline.sampling.encode import SUFFIX
from pipeline.sampling.guide import Guide, load_guide
from pipeline.sampling.nfe import function_evaluations
from pipeline.sampling.output_folder import REQUESTS, Identity
from pipeline.sampling.requests import digest
from pipeline.sampling.rows import ClassTurns, HeldRows, StoredRows
from pipeline.storage import Location, open_storage
from vdm_core.labels import NO_LABEL

_MOST_SHARDS = 1_000_000  # their numbers have six digits
FREE_FIELDS = frozenset({
    "root", "model", "ema", "output", "requests", "guide", "sweep", "batch_size", "pool",
    "overwrite", "grid_columns", "class_grid_images", "gate",
})  # fmt: skip


@dataclass(frozen=True)
class LoadedModel:
    """What is drawn from: a model whose weights match their digest, and its guide."""

    place: Location
    model: Generative
    card: ModelCard
    guide: Guide | None

    @property
    def free_fields(self) -> frozenset[str]:
        """What of a request its samples do not depend on."""
        return FREE_FIELDS if self.card.model.schedule is not None else FREE_FIELDS | WALK_FIELDS

    @property
    def classes(self) -> int | None:
        """How many classes labels may be of: the model's, or else its classifier's."""
        if self.card.model.conditional and self.card.classes is not None:
            return self.card.classes
        return None if self.guide is None else self.guide.classes


@dataclass(frozen=True)
class ShardTask:
    """Rows [start, stop) of a set, to be written as one shard."""

    cell: int  # which of the job's sets
    shard: str
    start: int
    stop: int


@dataclass(frozen=True)
class SetPlan:
    """A sample set that can be drawn as asked."""

    config: SampleConfig
    output: Location
    model: LoadedModel
    rows: ClassTurns | HeldRows
    class_counts: Mapping[int, int]

    def tasks(self, cell: int = 0) -> list[ShardTask]:
        """The rows cut into shards."""
        size, total, suffix = self.config.samples_per_shard, self.rows.total, SUFFIX
        return [
            ShardTask(cell, f"shard-{number:06d}.{suffix[self.config.format]}", start, stop)
            for number, start in enumerate(range(0, total, size))
            for stop in [min(start + size, total)]
        ]

    @property
    def stored_rows(self) -> ClassTurns | StoredRows:
        """The rows as actors find them."""
        if isinstance(self.rows, ClassTurns):
            return self.rows
        group_rows = self.config.samples_per_shard
        return StoredRows(self.output / REQUESTS, self.rows.total, group_rows)

    @property
    def identity(self) -> Identity:
        """What the shards depend on; a job with the same identity continues the same set."""
        asked = self.config.model_dump(mode="json", exclude=set(self.model.free_fields))
        if self.config.per_class is not None:
            asked["classes"] = sorted(self.class_counts) or None
        if isinstance(self.rows, HeldRows):
            asked["requests_sha256"] = digest(self.rows)
        if self.model.guide is not None:
            asked["guide_weights_sha256"] = self.model.guide.weights_sha256
        return self.model.card.identity | flatten(asked)

    @property
    def provenance(self) -> dict[str, Scalar]:
        """How the images were made, for `dataset.json`."""
        config, card = self.config, self.model.card
        return {
            "model_run": card.run,
            "model_kind": card.model.kind,
            "model_step": card.step,
            "model_average": card.average.label,
            "model_sha256": card.weights_sha256,
            **({} if card.model.schedule is None else self._walk),
            "nfe": self.nfe,
            "seed": None if config.requests else config.seed,
        }

    @property
    def _walk(self) -> dict[str, Scalar]:
        """How noise became images."""
        config, guide = self.config, self.model.guide
        return {
            "schedule_sha256": self.model.card.schedule_sha256,
            "sampler": config.sampler,
            "steps": config.steps,
            "grid": config.grid,
            "clip": config.clip,
            "guidance": config.guidance,
            "guidance_scale": None if config.requests else config.guidance_scale,
            "gamma_interval": None if config.gamma_interval is None else str(config.gamma_interval),
            "guide_sha256": None if guide is None else guide.weights_sha256,
        }

    @property
    def nfe(self) -> int:
        """Network evaluations of the sample that is guided the most."""
        scales = scales_of(self.rows)
        furthest = scales[np.argmax(np.abs(scales - self.config.unguided_scale))]
        return function_evaluations(self.config, self.model.model, self.model.card, float(furthest))


def load_for(config: SampleConfig) -> LoadedModel:
    """The model of `config` and the guide of its guidance.

    Raises:
        InputError: one is missing, damaged, or does not belong to the other, or the model cannot
            walk so.
    """
    place = newest_model(open_storage(config.path(config.model)))
    model, card = load_model(place, config.ema)
    check_walk(config, card)
    return LoadedModel(place, model, card, load_guide(config, card))


def plan_set(config: SampleConfig, model: LoadedModel) -> SetPlan:
    """See that `model` can do what is asked, and lay out its rows.

    Raises:
        InputError: classes or guidance that the model does not know, requests that mean nothing,
            images that the encoding cannot hold, more shards than there are numbers for.
    """
    check_encoding(config, model.card)
    rows = asked_rows(config, model.classes)
    check_guidance(config, model.card, rows)
    shards = -(-rows.total // config.samples_per_shard)
    if shards > _MOST_SHARDS:
        raise InputError(
            f"{rows.total:,} samples would be {shards:,} shards of {config.samples_per_shard}; "
            f"give samples_per_shard={-(-rows.total // _MOST_SHARDS)} or more, or ask for fewer"
        )
    labels = _label_counts(rows)
    return SetPlan(config, open_storage(config.path(config.output)), model, rows, labels)


def _label_counts(rows: ClassTurns | HeldRows) -> dict[int, int]:
    if isinstance(rows, ClassTurns):
        return {label: count for label, count in rows.counts if label != NO_LABEL}
    labels, counts = np.unique(rows.columns.labels, return_counts=True)
    both = zip(labels.tolist(), counts.tolist(), strict=True)
    return {label: count for label, count in both if label != NO_LABEL}
