"""A whole run, killed and continued on other workers and loader processes: every epoch is exact."""

import itertools
from collections.abc import Callable, Iterator
from multiprocessing import Pipe
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import ShardedDataset
from pipeline.data.loaders import _answers, _merged
from pipeline.data.mixture import single
from pipeline.data.source import Cut, Source
from pipeline.data.stream import TrainingStream
from pipeline.data.transform import NO_TRANSFORM

MakeDataset = Callable[..., ShardedDataset]
SEED, BATCH = 3, 12
Numbers = dict[int, int]  # global sample index -> the number that its image carries


class Stage(NamedTuple):
    """A stretch of the run between two kills."""

    world_size: int
    micro_batch: int
    processes: int
    steps: int  # before the kill
    lost: int  # of them: not in the last checkpoint

    @property
    def kept(self) -> int:
        return max(0, self.steps - self.lost)


@st.composite
def stages(draw: st.DrawFn) -> Stage:
    world_size = draw(st.sampled_from([1, 2, 3, 4, 6, 12]))
    own = BATCH // world_size
    micro_batch = draw(st.sampled_from([m for m in range(1, own + 1) if own % m == 0]))
    processes = draw(st.integers(1, 3))
    return Stage(
        world_size, micro_batch, processes, draw(st.integers(1, 5)), draw(st.integers(0, 2))
    )


Run = Callable[[ShardedDataset, dict[str, int], Cut, Stage], Iterator[tuple[list[int], list[int]]]]


def numbers(images: torch.Tensor) -> list[int]:
    """Of images (B,1,4,4), as `number_image` wrote them."""
    pixels = images.flatten(1)[:, :3].to(torch.int64)
    return (pixels @ torch.tensor([1, 256, 65536])).tolist()


def in_this_process(
    dataset: ShardedDataset, order: dict[str, int], cut: Cut, stage: Stage
) -> Iterator[tuple[list[int], list[int]]]:
    """What the loader processes do and what is made of it, without the processes."""
    source = Source(single(dataset), SEED, transform=NO_TRANSFORM, **order)
    shared = torch.empty((2, cut.micro_batch, *source.size), dtype=torch.uint8)
    pipes = [Pipe() for _ in range(stage.processes)]
    loaders = [
        _answers(source, cut, shared, slice(p, None, stage.processes), 0, theirs)
        for p, (_, theirs) in enumerate(pipes)
    ]
    for number, indices in enumerate(cut.micro_batches()):
        for ours, _ in pipes:
            ours.send(number % 2)
        parts = [next(loader) for loader in loaders]
        assert all(not isinstance(part, str) for part in parts), parts
        rows = _merged(parts)  # type: ignore[arg-type]
        assert rows.valid.all()
        yield list(indices), numbers(shared[number % 2].permute(0, 3, 1, 2))


def in_processes(
    dataset: ShardedDataset, order: dict[str, int], cut: Cut, stage: Stage
) -> Iterator[tuple[list[int], list[int]]]:
    """The stream as training uses it."""
    stream = TrainingStream(
        dataset, seed=SEED, global_batch=cut.global_batch, rank=cut.rank,
        world_size=cut.world_size, micro_batch=cut.micro_batch, start=cut.start,
        loader_workers=stage.processes, **order,
    )  # fmt: skip
    try:
        for batch in stream:
            yield batch.indices.tolist(), numbers(batch.images)
    finally:
        stream.close()


def seen_by_a_run(
    dataset: ShardedDataset, order: dict[str, int], history: list[Stage], run: Run
) -> Numbers:
    """What the checkpoints say was trained on; what was lost must come again as it was."""
    seen: Numbers = {}
    done = 0
    for stage in history:
        passes = BATCH // stage.world_size // stage.micro_batch
        for rank in range(stage.world_size):
            cut = Cut(BATCH, rank, stage.world_size, stage.micro_batch, BATCH * done)
            batches = run(dataset, order, cut, stage)
            for indices, found in itertools.islice(batches, passes * stage.steps):
                for index, number in zip(indices, found, strict=True):
                    assert seen.setdefault(index, number) == number
            batches.close()  # type: ignore[attr-defined]
        done += stage.kept
    return {index: number for index, number in seen.items() if index < BATCH * done}


def check_epochs(seen: Numbers, samples: int) -> None:
    """Each whole epoch holds each sample once, the last one none twice, and no place is empty."""
    assert sorted(seen) == list(range(len(seen)))
    for first in range(0, len(seen), samples):
        epoch = [seen[index] for index in range(first, min(first + samples, len(seen)))]
        assert len(set(epoch)) == len(epoch)
        assert set(epoch) <= set(range(samples))


SHARDS = st.lists(st.integers(1, 17), min_size=1, max_size=5)
HISTORY = st.lists(stages(), min_size=1, max_size=4)


@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(SHARDS, st.integers(1, 7), st.integers(1, 9), st.integers(1, 12), HISTORY)
def test_every_epoch_is_exact_through_kills_and_changes_of_workers_and_processes(
    make_dataset: MakeDataset,
    shards: list[int],
    block_samples: int,
    lanes: int,
    window: int,
    history: list[Stage],
) -> None:
    """The promise of the room, over random sets, orders, cuts and histories."""
    dataset = make_dataset(shards, block_samples=block_samples)
    order = {"lanes": lanes, "shuffle_window": window}
    seen = seen_by_a_run(dataset, order, history, in_this_process)
    assert len(seen) == BATCH * sum(stage.kept for stage in history)
    check_epochs(seen, sum(shards))


@pytest.mark.slow
@settings(
    max_examples=2,
    deadline=None,
    phases=[Phase.generate],  # each example starts processes: too slow to be made smaller
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(SHARDS, st.integers(1, 9), st.lists(stages(), min_size=2, max_size=2))
def test_the_same_with_real_processes(
    make_dataset: MakeDataset, shards: list[int], lanes: int, history: list[Stage]
) -> None:
    """Few examples of it; workers take turns on this machine."""
    history = [
        stage._replace(world_size=min(stage.world_size, 2), micro_batch=3) for stage in history
    ]
    order = {"lanes": lanes, "shuffle_window": 5}
    seen = seen_by_a_run(make_dataset(shards), order, history, in_processes)
    check_epochs(seen, sum(shards))
