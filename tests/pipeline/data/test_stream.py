"""The stream over real tars: the same samples for any workers, holes where data is lost."""

import itertools
import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipeline.data.dataset import ShardedDataset
from pipeline.data.stream import TrainingStream, iterate_once
from pipeline.errors import InputError
from vdm_core.records import Batch

MakeDataset = Callable[..., ShardedDataset]


def numbers(batch: Batch) -> list[int]:
    """The numbers that the test images carry in their first pixels."""
    pixels = batch.images.flatten(1)[:, :3].to(torch.int64)
    return (pixels @ torch.tensor([1, 256, 65536])).tolist()


def stream(dataset: ShardedDataset, **changes: object) -> TrainingStream:
    settings: dict[str, object] = {
        "seed": 3, "global_batch": 12, "rank": 0, "world_size": 1, "micro_batch": 12,
        "lanes": 4, "shuffle_window": 5, "prefetch": 0,
    }  # fmt: skip
    return TrainingStream(dataset, **(settings | changes))  # type: ignore[arg-type]


def take(batches: Iterator[Batch], count: int) -> list[Batch]:
    return list(itertools.islice(batches, count))


def by_index(batches: list[Batch]) -> dict[int, int]:
    return {
        index: number
        for batch in batches
        for index, number in zip(batch.indices.tolist(), numbers(batch), strict=True)
    }


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    shards=st.lists(st.integers(1, 17), min_size=1, max_size=5),
    block_samples=st.integers(1, 7),
    lanes=st.integers(1, 9),
    window=st.integers(1, 12),
    split=st.sampled_from([(1, 12), (2, 3), (3, 2), (4, 3), (6, 1), (12, 1)]),
    steps_before=st.integers(0, 6),
)
def test_any_workers_micro_batches_and_restarts_give_the_same_global_batches(
    make_dataset: MakeDataset,
    shards: list[int],
    block_samples: int,
    lanes: int,
    window: int,
    split: tuple[int, int],
    steps_before: int,
) -> None:
    """The contract of the whole room: one sequence, cut in many ways."""
    dataset = make_dataset(shards, block_samples=block_samples)
    order = {"lanes": lanes, "shuffle_window": window}
    n, steps = dataset.info.samples, 8
    whole = by_index(take(iter(stream(dataset, **order)), steps))
    assert sorted(whole) == list(range(12 * steps))
    for epoch in range(12 * steps // n):
        assert sorted(whole[epoch * n + i] for i in range(n)) == list(range(n))

    world_size, micro_batch = split
    passes = 12 // world_size // micro_batch
    for rank in range(world_size):
        cut = {"rank": rank, "world_size": world_size, "micro_batch": micro_batch, **order}
        resumed = stream(dataset, start=12 * steps_before, **cut)
        batches = take(iter(resumed), passes * (steps - steps_before))
        assert all(len(batch.keys) == micro_batch for batch in batches)
        for index, number in by_index(batches).items():
            assert index % world_size == rank
            assert whole[index] == number


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    samples=st.integers(1, 40),
    lanes=st.integers(1, 7),
    kills=st.lists(st.integers(1, 4), min_size=2, max_size=2),
)
def test_a_run_that_goes_from_two_workers_to_one_to_four_sees_what_an_undisturbed_one_sees(
    make_dataset: MakeDataset, samples: int, lanes: int, kills: list[int]
) -> None:
    """Also with fewer samples than a batch holds, and lanes that no worker count divides."""
    dataset = make_dataset([samples], block_samples=3)
    order = {"lanes": lanes, "shuffle_window": 5}
    whole = by_index(take(iter(stream(dataset, **order)), sum(kills) + 2))
    seen: dict[int, int] = {}
    done = 0
    for world_size, steps in zip((2, 1, 4), (*kills, 2), strict=True):
        for rank in range(world_size):
            cut = {"rank": rank, "world_size": world_size, "micro_batch": 3, "start": 12 * done}
            worker = stream(dataset, **cut, **order)
            batches = take(iter(worker), steps * 12 // world_size // 3)
            for index, number in by_index(batches).items():
                assert index not in seen
                seen[index] = number
        done += steps
    assert seen == whole


def test_the_epoch_of_a_place_counts_passes_over_the_data(make_dataset: MakeDataset) -> None:
    place = stream(make_dataset([20])).epoch_at(3 * 20 + 5)
    assert place == (3, 5, 20)
    assert place.epochs == 3.25


def test_a_batch_has_what_its_record_promises(make_dataset: MakeDataset) -> None:
    batch = next(iter(stream(make_dataset([20, 10]))))
    assert batch.images.dtype == torch.uint8
    assert batch.images.shape == (12, 1, 4, 4)
    assert batch.labels is not None
    assert batch.labels.tolist() == [number % 3 for number in numbers(batch)]
    assert batch.indices.tolist() == list(range(12))
    assert batch.valid.all()
    for key, number in zip(batch.keys, numbers(batch), strict=True):
        assert key == f"s{int(number >= 20):03d}.tar/{number:08d}"


@pytest.mark.parametrize("prefetch", [1, 4])
def test_prefetching_changes_nothing(make_dataset: MakeDataset, prefetch: int) -> None:
    dataset = make_dataset([30])
    ahead = stream(dataset, prefetch=prefetch)
    batches = take(iter(ahead), 6)
    ahead.close()
    assert by_index(batches) == by_index(take(iter(stream(dataset)), 6))


def test_each_block_is_read_once_an_epoch_when_its_lanes_are_its_own(
    make_dataset: MakeDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A block that two windows share is kept, not read again."""
    dataset = make_dataset([48], block_samples=4)
    reads: list[int] = []
    read_blocks = ShardedDataset.read_blocks

    def counted(self: ShardedDataset, indices: list[int]) -> object:
        reads.extend(indices)
        return read_blocks(self, indices)

    monkeypatch.setattr(ShardedDataset, "read_blocks", counted)
    take(iter(stream(dataset, lanes=4, shuffle_window=6)), 4)
    assert sorted(reads) == list(range(12))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"world_size": 5}, "does not divide among 5 workers"),
        ({"world_size": 2, "rank": 2}, "rank 2 is not one of 2"),
        ({"micro_batch": 5}, "micro-batches of 5"),
        ({"start": 13}, "start 13 is not a multiple"),
        ({"global_batch": 0}, "does not divide"),
    ],
)
def test_batches_that_do_not_divide_are_refused(
    make_dataset: MakeDataset, changes: dict[str, object], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        stream(make_dataset([12]), **changes)


def shard_path(dataset: ShardedDataset, number: int = 0) -> Path:
    return Path(dataset.shards_at.path) / dataset.rows[number].shard


def flip_byte(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "flipped bit": lambda path: flip_byte(path, 700),
    "truncated": cut_in_half,
    "zero bytes": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
    "garbage": lambda path: path.write_bytes(b"\xa5" * path.stat().st_size),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_after_opening_leaves_holes_and_moves_nothing_else(
    make_dataset: MakeDataset, damage: str
) -> None:
    """What a bare tar reader loses silently is counted here, and the rest keeps its index."""
    dataset = make_dataset([16, 16])
    before = by_index(take(iter(stream(dataset)), 6))
    DAMAGE[damage](shard_path(dataset))
    hurt = stream(dataset)
    batches = take(iter(hurt), 6)
    holes = 0
    for batch in batches:
        for row, index in enumerate(batch.indices.tolist()):
            if batch.valid[row]:
                assert numbers(batch)[row] == before[index]
            else:
                holes += 1
                assert not batch.images[row].any()
                assert batch.labels is not None
                assert batch.labels[row] == -1
    assert holes == sum(hurt.bad_samples.values()) > 0
    assert "s000.tar" in hurt.faults.reports[-1]
    if damage == "flipped bit":
        assert set(hurt.bad_samples) == {"damaged block"}
        valid = {before[i] for b in batches for i in b.indices[b.valid].tolist()}
        assert valid == set(range(4, 32))  # exactly the block of four that was hit is lost


def test_a_bad_sample_can_stop_the_run_by_name(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([16])
    flip_byte(shard_path(dataset), 700)
    with pytest.raises(InputError, match=r"s000.tar@0: damaged block: CRC-32.*on_bad_sample: skip"):
        take(iter(stream(dataset, on_bad_sample="raise")), 3)


def test_too_many_bad_samples_stop_the_run(
    make_dataset: MakeDataset, caplog: pytest.LogCaptureFixture
) -> None:
    dataset = make_dataset([16, 16])
    shard_path(dataset).unlink()
    with (
        caplog.at_level(logging.WARNING),
        pytest.raises(InputError, match=r"more than max_bad_fraction 0.001 allows.*s000.tar"),
    ):
        take(iter(stream(dataset, max_bad_fraction=0.001)), 10)  # 0.001 of 16,384 is 16
    assert len(caplog.records) == 5 + 2  # in full, then at 8 and 16


def test_one_pass_in_manifest_order_covers_any_range(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([5, 1, 9], block_samples=3)
    for start, stop in [(0, 15), (0, 4), (4, 11), (14, 15), (7, 7)]:
        batches = list(iterate_once(dataset, start=start, stop=stop, batch_size=4))
        assert [i for b in batches for i in b.indices.tolist()] == list(range(start, stop))
        assert [n for b in batches for n in numbers(b)] == list(range(start, stop))
    assert [len(b.keys) for b in iterate_once(dataset, batch_size=4)] == [4, 4, 4, 3]


def test_one_pass_refuses_a_range_that_is_not_there(make_dataset: MakeDataset) -> None:
    with pytest.raises(InputError, match="the dataset has 5"):
        next(iterate_once(make_dataset([5]), stop=6, batch_size=2))


def test_one_pass_raises_for_a_bad_sample_unless_told_to_skip(make_dataset: MakeDataset) -> None:
    dataset = make_dataset([8])
    flip_byte(shard_path(dataset), 700)
    with pytest.raises(InputError, match="damaged block"):
        list(iterate_once(dataset, batch_size=8))
    (batch,) = iterate_once(dataset, batch_size=8, on_bad_sample="skip", max_bad_fraction=1.0)
    assert batch.valid.tolist() == [False] * 4 + [True] * 4
