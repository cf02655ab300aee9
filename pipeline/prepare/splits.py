"""Sources to finished sharded sets: check everything, then write everything."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.prepare import PrepareConfig, WebDatasetSource
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.decode import Shape
from pipeline.data.manifest import DatasetInfo, ShardRow
from pipeline.data.writer import finish_dataset
from pipeline.errors import InputError
from pipeline.prepare.image_policy import ImagePolicy
from pipeline.prepare.kept_index import KeptIndex
from pipeline.prepare.output_set import (
    begin_indexing,
    begin_packing,
    check_space,
    complete,
    is_finished,
    recipe,
    report_bad,
)
from pipeline.prepare.pack import pack
from pipeline.prepare.source_survey import Expected, Surveyed, survey_source
from pipeline.prepare.sources import Source, open_source
from pipeline.prepare.survey import Survey
from pipeline.prepare.tar_index import index_tars
from pipeline.prepare.work_folder import WorkFolder
from pipeline.storage import Location, open_storage


class Packing(NamedTuple):
    """A source to be packed, and where."""

    source: Source
    policy: ImagePolicy
    found: Surveyed
    work: WorkFolder


@dataclass(frozen=True)
class Input:
    """A split's images, every one of them looked at."""

    survey: Survey
    labelled: bool
    class_names: tuple[str, ...] | None  # as the configuration or the source has them
    packing: Packing | None = None  # None: shards that are only indexed
    rows: Sequence[ShardRow] = ()  # of indexed shards
    shards_at: str = "."


@dataclass(frozen=True)
class PreparePlan:
    """What a run of `jobs.prepare` will do; nothing is written yet."""

    config: PrepareConfig
    folders: Mapping[str, Location]  # of every split
    finished: Mapping[str, ShardedDataset]  # splits that exist already
    inputs: Mapping[str, Input]  # splits to be written

    def text(self) -> str:
        """The plan in words."""
        lines = [f"{split}: finished already, unchanged" for split in self.finished]
        for split, found in self.inputs.items():
            verb = "pack" if found.packing else "index"
            lines.append(
                f"{split}: {verb} {found.survey.samples:,} images {found.survey.shape} "
                f"into {self.folders[split]}"
            )
            if found.survey.bad:
                lines.append(f"  leaving out {defects(found.survey)}")
        return "\n".join(lines)


def plan_prepare(config: PrepareConfig, *, keep: bool = True) -> PreparePlan:
    """Check outputs and inputs, down to every image; no set is written. Raises InputError.

    Indexing is done by that. With `keep`, what was found in a tar is kept beside the output at
    once, and an interrupted run goes on with the next tar; without, nothing at all is written.
    """
    check_submitted_paths(config, "output")
    folders = {split: open_storage(config.path(config.output)) / split for split in config.splits}
    finished = {
        split: open_dataset(folder.url)
        for split, folder in folders.items()
        if is_finished(folder, config, split)
    }
    inputs = {
        split: _look(config, split, folder, keep)
        for split, folder in folders.items()
        if split not in finished
    }
    _check_agreement(finished, inputs)
    for found in inputs.values():
        if found.packing:
            _check_space(found.packing)
    return PreparePlan(config, folders, finished, inputs)


def prepare(plan: PreparePlan) -> dict[str, ShardedDataset]:
    """Write the planned splits; return every split of the configuration, opened and checked."""
    classes = max(_least_classes(plan.finished, plan.inputs), default=0)
    written = {}
    for split, dataset in plan.finished.items():
        complete(plan.folders[split], dataset)
    for split, found in plan.inputs.items():
        folder, rows = plan.folders[split], found.rows
        if found.packing:
            source, policy, surveyed, work = found.packing
            begin_packing(work, surveyed)
            rows = pack(source, surveyed, work, plan.config, policy)
        else:
            begin_indexing(folder)
        report_bad(folder, found.survey.bad)
        finish_dataset(folder, rows, _info(plan.config, split, found, classes))
        written[split] = open_dataset(folder.url)
        complete(folder, written[split])
    return {split: (written | dict(plan.finished))[split] for split in plan.config.splits}


def defects(survey: Survey) -> str:
    """The unusable images in words: how many of each kind."""
    kinds = Counter(image.defect for image in survey.bad)
    return ", ".join(f"{count:,} x {defect}" for defect, count in sorted(kinds.items()))


def _look(config: PrepareConfig, split: str, folder: Location, keep: bool) -> Input:
    """Open the split's source and survey all of it, unless an interrupted run has done so."""
    given = config.splits[split]
    policy = ImagePolicy(config.convert, config.max_pixels, config.on_bad_image)
    if isinstance(given, WebDatasetSource):
        kept = KeptIndex(folder, recipe(config, split)) if keep else None
        return _look_at_tars(config, split, folder, given, policy, kept)
    source = open_source(given, config.path)
    names = _class_names(config, split, source) if source.labelled else None
    work = WorkFolder(folder, f"{recipe(config, split)} {source.digest()}")
    found = work.survey()
    if found is None:
        expected = _expected(config, split, policy, names)
        found = survey_source(source, expected, config.pool)
    return Input(found.survey, source.labelled, names, Packing(source, policy, found, work))


def _expected(
    config: PrepareConfig, split: str, policy: ImagePolicy, names: tuple[str, ...] | None
) -> Expected:
    return Expected(policy, len(names) if names else None, config.max_bad_fraction, split)


def _check_space(packing: Packing) -> None:
    done = [row for packed in packing.work.finished().values() for row in packed.rows]
    survey = packing.found.survey
    left = survey.samples - sum(row.samples for row in done)
    check_space(packing.work.folder, left * survey.image_bytes // survey.samples, left)


def _look_at_tars(
    config: PrepareConfig,
    split: str,
    folder: Location,
    given: WebDatasetSource,
    policy: ImagePolicy,
    kept: KeptIndex | None,
) -> Input:
    if config.convert:
        raise InputError(f"splits.{split}: indexed shards cannot be converted; unset convert")
    names = config.class_names if given.labelled else None
    url = config.path(given.path)
    survey, rows = index_tars(
        url,
        _expected(config, split, policy, names),
        config.pool,
        labelled=given.labelled,
        block_samples=config.block_samples,
        kept=kept,
    )
    shards_at = "." if open_storage(url).path == folder.path else url
    return Input(survey, given.labelled, names, rows=rows, shards_at=shards_at)


def _class_names(config: PrepareConfig, split: str, source: Source) -> tuple[str, ...] | None:
    names, own = config.class_names, source.class_names
    if names and own and len(names) != len(own):
        raise InputError(
            f"splits.{split}: {len(own)} class folders, but class_names has {len(names)}"
        )
    return names or own


def _info(config: PrepareConfig, split: str, found: Input, classes: int) -> DatasetInfo:
    """The dataset's description; `classes` numbers stand in for unknown class names."""
    mean, std = found.survey.mean_std()
    names = found.class_names or tuple(str(i) for i in range(classes))
    return DatasetInfo(
        split=split,
        shape=found.survey.known_shape,
        classes=len(names) if found.labelled else None,
        class_names=names if found.labelled else (),
        encoding=",".join(sorted(found.survey.extensions)),
        mean=mean,
        std=std,
        source=config.source,
        licence=config.licence,
        recipe=recipe(config, split),
        indexed=found.packing is None,
        shards_at=found.shards_at,
    )


def _least_classes(
    finished: Mapping[str, ShardedDataset], inputs: Mapping[str, Input]
) -> list[int]:
    """How many classes each labelled split has at least."""
    known = [data.info.classes for data in finished.values() if data.info.classes]
    return known + [max(i.survey.label_counts) + 1 for i in inputs.values() if i.labelled]


def _check_agreement(finished: Mapping[str, ShardedDataset], inputs: Mapping[str, Input]) -> None:
    """All splits must have the same image shape and the same classes. Raises InputError."""
    shapes: dict[str, Shape] = {split: data.info.shape for split, data in finished.items()}
    shapes |= {split: found.survey.known_shape for split, found in inputs.items()}
    if len(set(shapes.values())) > 1:
        raise InputError(f"image shapes (C,H,W) differ: {shapes}; splits of one set must agree")
    names = {split: i.class_names for split, i in inputs.items() if i.class_names}
    if len(set(names.values())) > 1:
        every = {name for own in names.values() for name in own}
        odd = {name for name in every if any(name not in own for own in names.values())}
        raise InputError(
            f"{', '.join(names)} have different classes ({', '.join(sorted(odd)[:5])}); "
            "splits of one set must agree"
        )
    known = {data.info.classes for data in finished.values() if data.info.classes}
    if known and max(_least_classes(finished, inputs)) > max(known):
        raise InputError(
            f"{', '.join(finished)} was prepared with {max(known)} classes and a label is above "
            "them; set class_names and overwrite=true"
        )
