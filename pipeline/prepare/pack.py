"""A surveyed source to shards: shuffled once, cut, written, in parts that know nothing of others.

The chunks, in a keyed order, are dealt into *pools* of about `shuffle_bytes`. A pool is shuffled
as a whole and becomes the shards `shard-<pool>-<number>.tar`. Which sample comes where is a pure
function of the survey and the seed, so pools may be packed by anyone, in any order, and again.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from pipeline.config.prepare import PrepareConfig
from pipeline.data.manifest import ShardRow
from pipeline.data.order import permutation
from pipeline.data.writer import ShardSample, write_shard
from pipeline.prepare.image_policy import ImagePolicy, encoded
from pipeline.prepare.source_survey import Surveyed
from pipeline.prepare.sources.base import Source, read_ahead
from pipeline.prepare.tasks import Work, run_all
from pipeline.prepare.work_folder import Packed, WorkFolder
from pipeline.progress import Progress
from pipeline.storage import Location

_CHUNKS, _POOL = 3, 4


@dataclass(frozen=True)
class PackPlan:
    """Which chunks make up each pool, and the (chunk, row) of what is left out."""

    pools: tuple[tuple[int, ...], ...]
    left_out: frozenset[tuple[int, int]]


def plan_packing(found: Surveyed, config: PrepareConfig) -> PackPlan:
    """Deal the chunks into pools: each is closed by the chunk that fills it."""
    pools: list[tuple[int, ...]] = []
    pool: list[int] = []
    size = 0
    for chunk in permutation(len(found.chunk_bytes), config.seed, 0, 0, _CHUNKS).tolist():
        if found.chunk_bytes[chunk]:
            pool.append(chunk)
            size += found.chunk_bytes[chunk]
        if size >= config.shuffle_bytes:
            pools.append(tuple(pool))
            pool, size = [], 0
    if pool:
        pools.append(tuple(pool))
    return PackPlan(tuple(pools), frozenset(found.left_out))


def pack(
    source: Source, found: Surveyed, work: WorkFolder, config: PrepareConfig, policy: ImagePolicy
) -> list[ShardRow]:
    """Write the shards of every pool that is not finished; return all manifest rows, in order."""
    plan = plan_packing(found, config)
    done = work.finished()
    todo = [pool for pool in range(len(plan.pools)) if pool not in done]
    kept = sum(row.samples for packed in done.values() for row in packed.rows)
    progress = Progress(f"{work.folder}: packed", found.survey.samples - kept)
    packer = Work(Packer, (source, plan, work, config, policy))
    for pool, packed in run_all(todo, packer, Packed, config.pool):
        done[pool] = packed
        progress.add(sum(row.samples for row in packed.rows))
    return [row for pool in range(len(plan.pools)) for row in done[pool].rows]


class Packer:
    """Packs pool n as task n, and records it in the work folder."""

    def __init__(
        self,
        source: Source,
        plan: PackPlan,
        work: WorkFolder,
        config: PrepareConfig,
        policy: ImagePolicy,
    ) -> None:
        """Read nothing yet."""
        self._source, self._plan, self._work = source, plan, work
        self._config, self._policy = config, policy

    def __call__(self, task: int) -> Packed:
        """Write the pool's shards. Raises InputError where the source or the storage fails."""
        pool = list(self._samples(task))
        order = permutation(len(pool), self._config.seed, task, 0, _POOL).tolist()
        rows = []
        for number, samples in enumerate(self._shards(pool[i] for i in order)):
            rows.append(self._write(f"shard-{task:05d}-{number:03d}.tar", samples))
        return self._work.finish(task, rows)

    def _samples(self, task: int) -> Iterator[ShardSample]:
        for chunk, samples in read_ahead(self._source, self._plan.pools[task]):
            for row, sample in enumerate(samples):
                if (chunk, row) not in self._plan.left_out:
                    image, extension = encoded(sample, self._policy)
                    yield ShardSample(sample.key, image, extension, sample.label)

    def _shards(self, samples: Iterator[ShardSample]) -> Iterator[list[ShardSample]]:
        shard: list[ShardSample] = []
        size = 0
        for sample in samples:
            size += len(sample.image)
            full = len(shard) == self._config.shard_samples or size > self._config.shard_bytes
            if shard and full:
                yield shard
                shard, size = [], len(sample.image)
            shard.append(sample)
        if shard:
            yield shard

    def _write(self, name: str, samples: list[ShardSample]) -> ShardRow:
        folder: Location = self._work.folder
        return write_shard(folder, name, samples, block_samples=self._config.block_samples)
