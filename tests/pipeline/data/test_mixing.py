"""Which set serves which place: exact shares, exact sequences, and a format that does not drift."""

from math import gcd

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.data.mixing import Mixing

weight_lists = st.lists(st.integers(1, 12), min_size=2, max_size=5)


def span(mixing: Mixing, start: int, stop: int) -> list[tuple[int, int]]:
    """(set, index within it) of the places [start, stop)."""
    sets, places = mixing.places(np.arange(start, stop))
    return list(zip(sets.tolist(), places.tolist(), strict=True))


@settings(max_examples=60, deadline=None)
@given(weight_lists, st.integers(1, 9), st.integers(0, 2**64 - 1), st.integers(0, 10**9))
def test_every_window_holds_exactly_the_shares_in_every_lane(
    weights: list[int], lanes: int, seed: int, window: int
) -> None:
    mixing = Mixing(weights, seed=seed, lanes=lanes)
    shares = [weight // gcd(*weights) for weight in weights]
    size = lanes * sum(shares)
    served = span(mixing, window * size, (window + 1) * size)
    for lane in range(lanes):
        counts = np.bincount([d for d, _ in served[lane::lanes]], minlength=len(shares))
        assert counts.tolist() == shares
    for d, share in enumerate(shares):
        first = window * lanes * share
        assert sorted(k for of, k in served if of == d) == list(range(first, first + lanes * share))


@settings(max_examples=60, deadline=None)
@given(weight_lists, st.integers(1, 9), st.integers(0, 500))
def test_a_place_depends_on_its_index_alone_and_what_was_served_before_is_counted(
    weights: list[int], lanes: int, start: int
) -> None:
    whole = span(Mixing(weights, seed=5, lanes=lanes), 0, start + 40)
    late = Mixing(weights, seed=5, lanes=lanes)
    assert span(late, start, start + 40) == whole[start:]
    counts = np.bincount([d for d, _ in whole[:start]], minlength=len(weights))
    assert late.served(start).tolist() == counts.tolist()


@settings(max_examples=60, deadline=None)
@given(weight_lists, st.integers(1, 9))
def test_a_lane_keeps_its_number_in_every_set_and_only_moves_on(
    weights: list[int], lanes: int
) -> None:
    """So a worker with some of the lanes reads no other set's other lanes, and none twice."""
    served = span(Mixing(weights, seed=2, lanes=lanes), 0, 300)
    for lane in range(lanes):
        for d in range(len(weights)):
            own = [k for of, k in served[lane::lanes] if of == d]
            assert own == list(range(lane, lane + lanes * len(own), lanes))


def test_one_in_a_thousand_is_one_in_a_thousand() -> None:
    mixing = Mixing([1000, 1], seed=0, lanes=2)
    rare = [i for i, (d, _) in enumerate(span(mixing, 0, 5 * 2002)) if d == 1]
    assert [i // 2002 for i in rare] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert mixing.served(10**9 * 2002).tolist() == [2 * 10**12, 2 * 10**9]


def test_turns_are_uniform_over_the_window() -> None:
    """Of two sets in a 1:3 mixture, each of a lane's four rows has the first a quarter of times."""
    sets, _ = Mixing([1, 3], seed=1, lanes=5).places(np.arange(5 * 4 * 4000))
    share = (sets.reshape(4000, 4, 5) == 0).mean(axis=0)
    assert np.abs(share - 0.25).max() < 4.5 * (0.1875 / 4000) ** 0.5


def test_one_set_is_the_sequence_itself() -> None:
    indices = np.array([0, 7, 10**15])
    sets, places = Mixing([7], seed=3, lanes=4).places(indices)
    assert not sets.any()
    assert np.array_equal(places, indices)


def test_the_mixture_is_a_format_that_does_not_drift() -> None:
    """Golden values: a change would break the resumption of running trainings."""
    mixing = Mixing([4, 2, 2], seed=7, lanes=3)
    assert span(mixing, 24, 36) == [
        *((1, 6), (0, 13), (1, 8), (2, 6), (1, 7), (0, 14)),
        *((0, 12), (0, 16), (0, 17), (0, 15), (2, 7), (2, 8)),
    ]


@pytest.mark.parametrize(("weights", "lanes"), [([], 1), ([1, 0], 1), ([1, 1], 0)])
def test_impossible_mixtures_are_refused(weights: list[int], lanes: int) -> None:
    with pytest.raises(ValueError, match="need weights and lanes"):
        Mixing(weights, seed=0, lanes=lanes)
