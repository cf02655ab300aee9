"""The training sequence: exact epochs, and a format that cannot drift unnoticed."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.order import SampleOrder, permutation, reads_per_sample, worker_indices

blocks = st.lists(st.integers(1, 9), min_size=1, max_size=12)


def places(order: SampleOrder, block_samples: list[int], start: int, stop: int) -> list[int]:
    """Manifest places of the samples with indices [start, stop)."""
    firsts = np.cumsum([0, *block_samples])
    found = []
    for index in range(start, stop):
        slot = order.slot(index)
        window = order.window(*slot[:3])
        found.append(int(firsts[window.blocks[slot.row]] + window.rows[slot.row]))
    return found


@settings(max_examples=60, deadline=None)
@given(blocks, st.integers(1, 12), st.integers(1, 20), st.integers(0, 2**64 - 1))
def test_every_epoch_holds_each_sample_exactly_once(
    sizes: list[int], lanes: int, window: int, seed: int
) -> None:
    order = SampleOrder(np.array(sizes), seed=seed, lanes=lanes, shuffle_window=window)
    n = sum(sizes)
    sequence = places(order, sizes, 0, 3 * n)
    for epoch in range(3):
        assert sorted(sequence[epoch * n : (epoch + 1) * n]) == list(range(n))


@settings(max_examples=30, deadline=None)
@given(blocks, st.integers(1, 8), st.integers(1, 20), st.integers(0, 200))
def test_a_sample_depends_on_its_index_alone_not_on_where_reading_began(
    sizes: list[int], lanes: int, window: int, start: int
) -> None:
    def order() -> SampleOrder:
        return SampleOrder(np.array(sizes), seed=5, lanes=lanes, shuffle_window=window)

    whole = places(order(), sizes, 0, start + 20)
    assert places(order(), sizes, start, start + 20) == whole[start:]


@settings(max_examples=60, deadline=None)
@given(blocks, st.integers(1, 8), st.integers(1, 20))
def test_windows_of_a_lane_are_contiguous_and_no_longer_than_the_setting(
    sizes: list[int], lanes: int, window: int
) -> None:
    order = SampleOrder(np.array(sizes), seed=1, lanes=lanes, shuffle_window=window)
    last: dict[int, tuple[int, int]] = {}
    for index in range(sum(sizes)):
        _, lane, number, row = order.slot(index)
        assert 0 <= row < window
        before = last.get(lane, (0, -1))
        assert (number, row) in {(before[0], before[1] + 1), (before[0] + 1, 0)}
        last[lane] = (number, row)


def test_lanes_read_contiguous_stretches_of_permuted_blocks() -> None:
    """With windows of one sample, a lane walks through whole blocks in order."""
    sizes = [4] * 6
    order = SampleOrder(np.array(sizes), seed=3, lanes=2, shuffle_window=1)
    sequence = places(order, sizes, 0, 24)
    for lane in (sequence[0::2], sequence[1::2]):
        for block in range(3):
            first = lane[4 * block]
            assert first % 4 == 0
            assert lane[4 * block : 4 * block + 4] == [first, first + 1, first + 2, first + 3]


def test_refills_of_the_lanes_are_spread_over_the_window() -> None:
    order = SampleOrder(np.array([128] * 64), seed=0, lanes=8, shuffle_window=64)
    begins = [
        index
        for index in range(order.samples)
        if order.slot(index).row == 0 and order.slot(index).window > 0
    ]
    gaps = np.diff(begins)
    assert gaps.max() <= 2 * 64  # all at once would leave gaps of 8 * 64


def test_seeds_and_epochs_give_different_sequences() -> None:
    sizes = [8] * 8
    orders = [SampleOrder(np.array(sizes), seed=s, lanes=2, shuffle_window=16) for s in (0, 1)]
    sequences = [places(order, sizes, e * 64, (e + 1) * 64) for order in orders for e in (0, 1)]
    assert len({tuple(sequence) for sequence in sequences}) == 4


def test_first_and_last_places_of_an_epoch_are_uniform_over_seeds() -> None:
    """No place in the epoch favours a part of the data: chi-square over 16 bins, 800 seeds."""
    sizes = [4] * 64
    for index in (0, 255):
        found = [
            places(
                SampleOrder(np.array(sizes), seed=s, lanes=4, shuffle_window=16),
                sizes,
                index,
                index + 1,
            )[0]
            for s in range(800)
        ]
        counts = np.bincount(np.array(found) // 16, minlength=16)
        assert ((counts - 50) ** 2 / 50).sum() < 40  # the 99.95 % point for 15 degrees is 39.7


def test_the_permutation_is_part_of_the_format() -> None:
    """Golden values: a change here would send every running training astray."""
    assert permutation(8, 0).tolist() == [0, 2, 1, 5, 4, 3, 6, 7]
    assert permutation(8, 2**64 - 1, 1, 2, 3).tolist() == [0, 5, 1, 2, 6, 3, 7, 4]


def test_the_sequence_is_part_of_the_format() -> None:
    sizes = [3, 5, 4, 4, 2]
    order = SampleOrder(np.array(sizes), seed=42, lanes=3, shuffle_window=4)
    assert places(order, sizes, 0, 18) == [
        0,
        13,
        17,
        1,
        12,
        3,
        2,
        11,
        7,
        8,
        14,
        6,
        9,
        15,
        4,
        10,
        16,
        5,
    ]
    assert places(order, sizes, 18, 36) == [
        13,
        4,
        9,
        12,
        2,
        8,
        15,
        3,
        11,
        14,
        7,
        17,
        1,
        6,
        16,
        0,
        5,
        10,
    ]


def test_philox_output_is_the_published_one() -> None:
    """Known answers of Philox4x64-10 from Random123: counter and key all ones, and pi's digits."""
    ones = 2**64 - 1
    # NumPy counts up before it draws, so its counter stands one below the published one.
    counter = np.array([ones - 1, ones, ones, ones], dtype=np.uint64)
    raw = np.random.Philox(key=np.array([ones, ones], dtype=np.uint64), counter=counter)
    expected = [0x87B092C3013FE90B, 0x438C3C67BE8D0224, 0x9CC7D7C69CD777B6, 0xA09CAEBF594F0BA0]
    assert raw.random_raw(4).tolist() == expected


@pytest.mark.parametrize(
    ("sizes", "lanes", "window", "seed"),
    [([], 1, 1, 0), ([3], 0, 1, 0), ([3], 1, 0, 0), ([3], 1, 1, -1), ([3], 1, 1, 2**64)],
)
def test_impossible_orders_are_refused(
    sizes: list[int], lanes: int, window: int, seed: int
) -> None:
    with pytest.raises(ValueError, match="need samples"):
        SampleOrder(np.array(sizes, dtype=np.int64), seed=seed, lanes=lanes, shuffle_window=window)


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 12])
def test_workers_share_each_global_batch_without_overlap(world_size: int) -> None:
    for batch in (0, 7):
        shares = [
            worker_indices(batch, global_batch=12, rank=rank, world_size=world_size)
            for rank in range(world_size)
        ]
        assert sorted(i for share in shares for i in share) == list(
            range(batch * 12, batch * 12 + 12)
        )
        assert {len(share) for share in shares} == {12 // world_size}


def test_a_worker_reads_its_own_lanes_where_workers_divide_lanes() -> None:
    order = SampleOrder(np.array([10] * 7), seed=0, lanes=8, shuffle_window=8)
    for epoch_start in (0, 72):  # multiples of the global batch on either side of an epoch's end
        seen: list[set[int]] = []
        for rank in range(4):
            indices = worker_indices(epoch_start // 8, global_batch=8, rank=rank, world_size=4)
            seen.append({order.slot(i).lane for i in indices if i // 70 == epoch_start // 70})
        for rank, lanes in enumerate(seen):
            assert not lanes & set().union(*seen[:rank], *seen[rank + 1 :])


@pytest.mark.parametrize("lanes", [1, 4, 6, 8, 24])
@pytest.mark.parametrize(
    ("workers", "processes", "micro_batch"),
    [
        (1, 1, 1),
        (4, 1, 3),
        (2, 2, 4),
        (2, 3, 4),
        (4, 4, 2),
        (3, 2, 2),
        (2, 4, 6),
        (1, 4, 8),
        (2, 2, 6),
    ],
)
def test_each_lane_is_read_by_as_many_processes_as_is_said(
    lanes: int, workers: int, processes: int, micro_batch: int
) -> None:
    """Counted: process p of a worker makes rows p, p + processes, ... of each micro-batch."""
    batch = workers * micro_batch * 2
    order = SampleOrder(np.array([24 * batch]), seed=0, lanes=lanes, shuffle_window=10**6)
    readers: dict[int, set[tuple[int, int]]] = {lane: set() for lane in range(lanes)}
    for number in range(24):
        for rank in range(workers):
            own = worker_indices(number, global_batch=batch, rank=rank, world_size=workers)
            for at, index in enumerate(own):
                process = at % micro_batch % processes
                readers[order.slot(index).lane].add((rank, process))
    expected = reads_per_sample(
        workers, lanes=lanes, shuffle_window=10**6, processes=processes, micro_batch=micro_batch
    )
    assert {len(who) for who in readers.values()} == {expected}
