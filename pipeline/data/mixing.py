"""Which of several sets serves which place of the training sequence: integers in, integers out.

Weights without their common divisor are *shares*; their sum is M. The sequence is cut into windows
of `lanes` x M places, and place g is row g // lanes of column g % lanes. In each window each column
holds set d exactly share d times, in places that a permutation keyed by (seed, window, column)
chooses. Counted down the columns, the places of set d are its own endless sequence: the k-th of
them in column c is its sample index k·lanes + c. So each set's passes over its samples are exact,
any place is found at once, and a worker or process that keeps to some columns keeps to the lanes
with the same numbers in every set.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import gcd

import numpy as np

from pipeline.data.order import Integers, random_words

_MIXING = 3  # after the purposes of the permutations in `order`


class Mixing:
    """The endless, seekable sequence of (set, index within its own sequence)."""

    def __init__(self, weights: Sequence[int], *, seed: int, lanes: int) -> None:
        """Mix as many sets as there are weights; raises ValueError for weights or lanes below 1."""
        if not weights or min(weights) < 1 or lanes < 1:
            raise ValueError(f"need weights and lanes of 1 or more, got {list(weights)}, {lanes}")
        self.shares = np.array(weights, np.int64) // gcd(*weights)
        self.rows = int(self.shares.sum())  # of a window
        self._seed, self._lanes = seed, lanes
        self._sets = np.repeat(np.arange(len(weights)), self.shares)  # of the M turns
        self._counted = np.concatenate([np.arange(share) for share in self.shares])
        self._number = -1
        self._set_at = self._count_at = np.empty((0, 0), np.int64)

    def places(self, indices: Integers) -> tuple[Integers, Integers]:
        """Set and index within its sequence, (n,) each, of global sample indices (n,) int64."""
        if len(self.shares) == 1:
            return np.zeros_like(indices), indices
        windows, within = np.divmod(indices, self.rows * self._lanes)
        row, column = np.divmod(within, self._lanes)
        sets, counts = np.empty_like(indices), np.empty_like(indices)
        for window in np.unique(windows).tolist():
            self._enter(window)
            here = windows == window
            sets[here] = self._set_at[column[here], row[here]]
            counts[here] = self._count_at[column[here], row[here]]
        return sets, (windows * self.shares[sets] + counts) * self._lanes + column

    def served(self, index: int) -> Integers:
        """How many places before global sample index `index` each set has, (sets,)."""
        windows, rest = divmod(index, self.rows * self._lanes)
        sets, _ = self.places(np.arange(index - rest, index, dtype=np.int64))
        whole = windows * self._lanes * self.shares
        return whole + np.bincount(sets, minlength=len(self.shares))

    def _enter(self, window: int) -> None:
        """Deal the turns of every column of `window` out to its rows, unless that is done."""
        if window == self._number:
            return
        words = random_words(self._lanes * self.rows, self._seed, window, 0, _MIXING)
        turns = np.argsort(words.reshape(self._lanes, self.rows), axis=1, kind="stable")
        self._set_at = self._sets[turns]
        by_set = np.argsort(self._set_at, axis=1, kind="stable")
        self._count_at = np.empty_like(by_set)
        np.put_along_axis(self._count_at, by_set, self._counted[None], axis=1)
        self._number = window
