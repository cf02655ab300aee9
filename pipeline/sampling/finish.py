"""From finished shards to a data set: the manifests, then `dataset.json`, which makes it one."""

import hashlib
import json
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import pyarrow.parquet as pq

from pipeline.data.manifest import DatasetInfo
from pipeline.data.writer import finish_dataset
from pipeline.sampling.output_folder import ROWS, delete_temporary
from pipeline.sampling.plan import SetPlan, ShardTask
from pipeline.sampling.shard_rows import SCHEMA, FinishedShard, read_sample_rows
from pipeline.storage import Location

SAMPLES = "sample_manifest.parquet"
_AT_ONCE = 16


def finish_set(plan: SetPlan, done: dict[str, FinishedShard]) -> DatasetInfo:
    """Write the manifests and `dataset.json`: from here on the set exists for readers.

    Raises:
        RuntimeError: a shard of the plan is not there.
    """
    tasks, card = plan.tasks(), plan.model.card
    if lost := [task.shard for task in tasks if task.shard not in done]:
        raise RuntimeError(f"{plan.output}: shards {lost} were not written; run the job again")
    delete_temporary(plan.output)
    shards = [done[task.shard] for task in tasks]
    samples_sha256 = _write_sample_manifest(plan.output, tasks)
    labelled, classes = bool(plan.class_counts), plan.model.classes
    names = card.class_names if card.model.conditional and card.class_names else ()
    recipe = json.dumps(plan.identity, sort_keys=True).encode()
    info = DatasetInfo(
        split="samples",
        shape=card.shape,
        classes=classes if labelled else None,
        class_names=(names or tuple(map(str, range(classes or 0)))) if labelled else (),
        levels=card.levels,
        encoding=plan.config.encoding,
        source=f"{card.run} after step {card.step}, weights {card.weights_sha256}",
        recipe=hashlib.sha256(recipe).hexdigest(),
        container="tar" if plan.config.format == "webdataset" else "parquet",
        provenance=plan.provenance
        | {
            "made_by": " | ".join(sorted({shard.made_by for shard in shards})),
            "sample_manifest_sha256": samples_sha256,
        },
    )
    return finish_dataset(plan.output, [shard.row for shard in shards], info)


def _write_sample_manifest(output: Location, tasks: Sequence[ShardTask]) -> str:
    """`sample_manifest.parquet`, a row group for each shard, in order; its SHA-256.

    It grows on a local disk and is stored whole, so memory holds the lines of a few shards, which
    are fetched at once because object stores answer slowly.
    """
    with (
        tempfile.TemporaryDirectory(prefix="vdm-samples-") as folder,
        ThreadPoolExecutor(_AT_ONCE) as readers,
    ):
        file = Path(folder) / SAMPLES
        places = [output / ROWS / f"{PurePosixPath(task.shard).stem}.parquet" for task in tasks]
        with pq.ParquetWriter(file, SCHEMA) as writer:
            for first in range(0, len(places), _AT_ONCE):
                for lines in readers.map(read_sample_rows, places[first : first + _AT_ONCE]):
                    writer.write_table(lines)
        (output / SAMPLES).write_file(file)
        with file.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
