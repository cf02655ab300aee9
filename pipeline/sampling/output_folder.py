"""The folder that a sample set grows in: whose it is, and which shards are done.

plan.json          what was asked for; another request with this output is refused
requests.parquet   the rows of the plan, where they came from a file: a row group for each shard
rows/*.parquet     one for each finished shard, written after it: its lines of the manifests
shard-*            the shards
"""

import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from pipeline.data.manifest import DATASET
from pipeline.errors import InputError
from pipeline.metrics import Scalar
from pipeline.sampling.shard_rows import FinishedShard, read_finished
from pipeline.storage import Location, is_temporary

PLAN, REQUESTS, ROWS = "plan.json", "requests.parquet", "rows"
_PARALLEL_READS = 16
Identity = dict[str, Scalar]


def claim(output: Location, identity: Identity, *, overwrite: bool) -> str:
    """Make the output folder this plan's; return the digest of its `plan.json`.

    With `overwrite`, samples of another plan are deleted; anything else never is.

    Raises:
        InputError: the folder holds another plan or something else.
    """
    if not check_output(output, identity, overwrite=overwrite):
        _clear(output)
        plan = json.dumps(identity, indent=2, sort_keys=True)
        (output / PLAN).write_bytes(plan.encode())
    return plan_digest(output)


def check_output(output: Location, identity: Identity, *, overwrite: bool) -> bool:
    """Whether the folder is this plan's already; False where it is empty, or to be overwritten.

    Raises:
        InputError: it holds another plan, without `overwrite`, or something else.
    """
    plan = output / PLAN
    if plan.size() is None:
        if output.files() or output.folders():
            raise InputError(
                f"{output} is not empty and holds no sample set; choose another output"
            )
        return False
    changed = _changes(plan, identity)
    if changed and not overwrite:
        raise InputError(
            f"{output} holds samples of another request; choose another output or set "
            "overwrite=true:\n  " + "\n  ".join(changed)
        )
    return not changed


def plan_digest(output: Location) -> str:
    """SHA-256 of `plan.json`, by which an actor sees that the folder is still its own job's."""
    return hashlib.sha256((output / PLAN).read_bytes()).hexdigest()


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


def finished_shards(output: Location, plan_sha256: str) -> dict[str, FinishedShard]:
    """The shards of this plan that are done and still whole, by name.

    Raises:
        InputError: what tells that a shard is done cannot be read.
    """
    sizes = output.file_sizes(recursive=True)
    names = [n for n in sizes if n.startswith(f"{ROWS}/") and not is_temporary(n)]
    with ThreadPoolExecutor(_PARALLEL_READS) as pool:
        found: Sequence[FinishedShard] = list(pool.map(read_finished, (output / n for n in names)))
    return {
        one.row.shard: one
        for one in found
        if one.plan_sha256 == plan_sha256 and sizes.get(one.row.shard) == one.row.bytes
    }


def delete_temporary(output: Location) -> None:
    """Remove what jobs left that were killed while they wrote."""
    for name in output.files(recursive=True):
        if is_temporary(name):
            (output / name).delete()
