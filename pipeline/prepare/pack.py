"""A surveyed source to shards: shuffled once, cut, written."""

from __future__ import annotations

from collections.abc import Iterator, Set

from pipeline.config.prepare import PrepareConfig
from pipeline.data.manifest import ShardRow
from pipeline.data.order import permutation
from pipeline.data.writer import ShardSample, write_shard
from pipeline.prepare.sources.base import Source, SourceSample
from pipeline.prepare.survey import ImagePolicy, encoded
from pipeline.progress import Progress
from pipeline.storage import Location

_CHUNKS, _POOL = 3, 4


def pack(
    source: Source,
    left_out: Set[tuple[int, int]],
    folder: Location,
    config: PrepareConfig,
    policy: ImagePolicy,
    split: str,
) -> list[ShardRow]:
    """Write `shard-000000.tar`, … into `folder` and return their manifest rows, in order."""
    progress = Progress(f"{split}: packed", source.samples)
    rows: list[ShardRow] = []
    for samples in _shards(_shuffled(source, left_out, config, policy), config):
        shard = f"shard-{len(rows):06d}.tar"
        rows.append(write_shard(folder, shard, samples, block_samples=config.block_samples))
        progress.add(len(samples))
    return rows


def _shuffled(
    source: Source, left_out: Set[tuple[int, int]], config: PrepareConfig, policy: ImagePolicy
) -> Iterator[ShardSample]:
    """All samples: chunks in a keyed order, then permuted within pools of `shuffle_bytes`.

    Where the encoded images fit into one pool, this is a permutation of the whole set.
    """
    pool: list[ShardSample] = []
    pools = size = 0
    for chunk in permutation(source.chunks, config.seed, 0, 0, _CHUNKS).tolist():
        for row, sample in enumerate(source.read(chunk)):
            if (chunk, row) not in left_out:
                pool.append(_encode(sample, policy))
                size += len(pool[-1].image)
        if size >= config.shuffle_bytes:
            yield from _permuted(pool, config.seed, pools)
            pool, size, pools = [], 0, pools + 1
    yield from _permuted(pool, config.seed, pools)


def _permuted(pool: list[ShardSample], seed: int, number: int) -> Iterator[ShardSample]:
    for i in permutation(len(pool), seed, number, 0, _POOL).tolist():
        yield pool[i]


def _encode(sample: SourceSample, policy: ImagePolicy) -> ShardSample:
    image, extension = encoded(sample, policy)
    return ShardSample(sample.key, image, extension, sample.label)


def _shards(samples: Iterator[ShardSample], config: PrepareConfig) -> Iterator[list[ShardSample]]:
    shard: list[ShardSample] = []
    size = 0
    for sample in samples:
        size += len(sample.image)
        if shard and (len(shard) == config.shard_samples or size > config.shard_bytes):
            yield shard
            shard, size = [], len(sample.image)
        shard.append(sample)
    if shard:
        yield shard
