"""A sample set on its way: the plan, which shards are done, and the finished data set.

plan.json       what was asked for; another request with this output is refused
rows/*.json     one per finished shard, written after it
shard-*.tar, manifest.parquet, dataset.json (makes it a data set), grid.png
"""

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Any

from pipeline.config.sample import SampleConfig
from pipeline.data.manifest import DATASET, Block, DatasetInfo, ShardRow
from pipeline.data.writer import finish_dataset
from pipeline.errors import InputError
from pipeline.metrics import Scalar, flatten
from pipeline.model.export import ModelCard
from pipeline.storage import Location, is_temporary

PLAN, ROWS = "plan.json", "rows"
FREE_FIELDS = {"root", "model", "output", "batch_size", "pool", "overwrite", "grid_columns"}
Identity = dict[str, Scalar]


@dataclass(frozen=True)
class ShardTask:
    """Samples [start, stop) of the plan, to be written as one shard."""

    shard: str
    start: int
    stop: int


def plan_shards(config: SampleConfig, card: ModelCard) -> list[ShardTask]:
    """Cut the wanted samples into shards.

    Raises:
        InputError: as `wanted_classes` and `check_walk`.
    """
    check_walk(config, card)
    total = config.per_class * len(wanted_classes(config, card) or (None,))
    starts = range(0, total, config.samples_per_shard)
    return [
        ShardTask(f"shard-{number:06d}.tar", start, min(start + config.samples_per_shard, total))
        for number, start in enumerate(starts)
    ]


def check_walk(config: SampleConfig, card: ModelCard) -> None:
    """Refuse what needs one γ for all pixels of a schedule that has one for each.

    Raises:
        InputError: a second-order sampler, another grid than t, an interval of guidance.
    """
    if not card.model.schedule.per_pixel:
        return
    wrong = [
        text
        for text, asked in (
            (f"sampler={config.sampler}", config.sampler in ("dpmpp_2m", "heun")),
            (f"grid={config.grid}", config.grid != "t"),
            ("gamma_interval", config.gamma_interval is not None),
        )
        if asked
    ]
    if wrong:
        raise InputError(
            f"{', '.join(wrong)}: this takes one γ for all pixels, and "
            f"the schedule of {config.model} ({card.model.schedule.kind}) has one for each; take "
            "sampler=ancestral, ddim or pc, grid=t and no gamma_interval"
        )


def wanted_classes(config: SampleConfig, card: ModelCard) -> tuple[int, ...] | None:
    """The classes to draw from, or None for an unconditional model.

    Raises:
        InputError: guidance or classes asked of a model without labels, guidance of one that
            never saw the null condition, or an unknown class.
    """
    if not card.model.conditional or card.classes is None:
        if config.classes is not None or config.guidance_scale != 1.0:
            raise InputError(
                f"model {config.model} knows no classes; leave classes out and guidance_scale at 1"
            )
        return None
    if config.guidance_scale != 1.0 and card.model.drop_label == 0.0:
        raise InputError(
            f"model {config.model} was trained with drop_label 0, so it never learned to do "
            "without a label, which guidance needs; leave guidance_scale at 1"
        )
    classes = tuple(range(card.classes)) if config.classes is None else config.classes
    wrong = [label for label in classes if not 0 <= label < card.classes]
    if wrong or not classes or len(set(classes)) != len(classes):
        raise InputError(
            f"classes={list(classes)}: give distinct numbers from 0 to {card.classes - 1}"
        )
    return classes


def plan_identity(config: SampleConfig, card: ModelCard) -> Identity:
    """What the shards depend on; a run with the same identity continues the same set."""
    asked = config.model_dump(mode="json", exclude=FREE_FIELDS)
    asked["classes"] = wanted_classes(config, card)
    return card.identity | flatten(asked)


def open_output(output: Location, identity: Identity, *, overwrite: bool) -> bool:
    """Claim the output folder for this plan; return whether the set is finished already.

    With `overwrite`, samples of another plan are deleted; anything else never is.

    Raises:
        InputError: the folder holds another plan or something else.
    """
    plan = output / PLAN
    if plan.size() is None:
        if output.files() or output.folders():
            raise InputError(
                f"{output} is not empty and holds no sample set; choose another output"
            )
    elif not (changed := _changes(plan, identity)):
        return (output / DATASET).size() is not None
    elif overwrite:
        _clear(output)
    else:
        raise InputError(
            f"{output} holds samples of another request; choose another output or set "
            "overwrite=true:\n  " + "\n  ".join(changed)
        )
    plan.write_bytes(json.dumps(identity, indent=2, sort_keys=True).encode())
    return False


def _changes(plan: Location, identity: Identity) -> list[str]:
    try:
        before: Identity = json.loads(plan.read_bytes())
    except ValueError as error:
        raise InputError(f"{plan} is damaged ({error}); choose another output") from None
    return [
        f"{key}: {before.get(key)!r} there, {identity.get(key)!r} now"
        for key in sorted(before.keys() | identity.keys())
        if before.get(key) != identity.get(key)
    ]


def _clear(output: Location) -> None:
    """Delete all but the plan: `dataset.json` first, so that no reader sees half a set."""
    (output / DATASET).delete()
    for name in output.files(recursive=True):
        if name != PLAN:
            (output / name).delete()


def keep_row(output: Location, row: ShardRow) -> None:
    """Record that a shard is done."""
    (output / ROWS / f"{row.shard}.json").write_bytes(json.dumps(asdict(row)).encode())


def finished_rows(output: Location) -> dict[str, ShardRow]:
    """The shards that are done and still whole, by name."""
    rows = {}
    for name in (output / ROWS).files():
        if is_temporary(name):  # of a job that was killed while it wrote
            continue
        row = _row((output / ROWS / name).read_bytes())
        if (output / row.shard).size() == row.bytes:
            rows[row.shard] = row
    return rows


def _row(data: bytes) -> ShardRow:
    fields: dict[str, Any] = json.loads(data)
    counts = tuple((int(label), int(count)) for label, count in fields.pop("label_counts"))
    blocks = tuple(Block(*block) for block in fields.pop("blocks"))
    return ShardRow(**fields, label_counts=counts, blocks=blocks)


def finish_samples(
    output: Location, tasks: list[ShardTask], identity: Identity, card: ModelCard
) -> DatasetInfo:
    """Write the manifest and `dataset.json`: from here on the set exists for readers.

    Raises:
        RuntimeError: a shard of the plan is not there.
    """
    rows = finished_rows(output)
    if lost := [task.shard for task in tasks if task.shard not in rows]:
        raise RuntimeError(f"{output}: shards {lost} were not written; run the job again")
    for name in output.files():
        if is_temporary(name):  # of a job that was killed while it wrote
            (output / name).delete()
    labelled = card.model.conditional and card.classes is not None
    info = DatasetInfo(
        split="samples",
        shape=card.shape,
        classes=card.classes if labelled else None,
        class_names=card.class_names if labelled else (),
        levels=card.levels,
        encoding="png",
        source=f"{card.run} after step {card.step}, weights {card.weights_sha256}",
        recipe=hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest(),
    )
    return finish_dataset(output, [rows[task.shard] for task in tasks], info)
