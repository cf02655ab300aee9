"""Rows of a plan: whose turn it is, and rows from a file."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.sampling.rows import ClassTurns, HeldRows, PlannedRows, StoredRows, class_counts
from pipeline.storage import open_storage

COUNTS = st.lists(st.integers(1, 9), min_size=1, max_size=5).map(
    lambda counts: tuple(enumerate(counts))
)


@given(COUNTS, st.integers(1, 7))
@settings(deadline=None)
def test_each_class_has_its_number_however_the_rows_are_cut(counts, size):
    """And ids are 0, 1, 2, …, each once."""
    turns = ClassTurns(counts, seed=3, scale=2.0)
    parts = [
        turns.rows(start, min(start + size, turns.total)) for start in range(0, turns.total, size)
    ]
    ids = np.concatenate([part.ids for part in parts])
    assert ids.tolist() == list(range(sum(n for _, n in counts)))
    assert Counter(np.concatenate([part.labels for part in parts]).tolist()) == dict(counts)
    assert sum((Counter(class_counts(part)) for part in parts), Counter()) == dict(counts)


@given(COUNTS)
@settings(deadline=None)
def test_classes_take_turns_until_each_has_its_number(counts):
    """The reference deals one to each class that wants more, round after round."""
    left, expected = dict(counts), []
    while any(left.values()):
        for label in [label for label, _ in counts if left[label]]:
            expected.append(label)
            left[label] -= 1
    turns = ClassTurns(counts, seed=0, scale=1.0)
    assert turns.rows(0, turns.total).labels.tolist() == expected


@pytest.fixture
def held() -> HeldRows:
    ids = np.arange(10, dtype=np.int64)
    return HeldRows(PlannedRows(ids * 7, ids % 3, ids + 2**40, ids / 4))


def test_stored_rows_are_the_rows_by_row_group(held, tmp_path):
    file = open_storage(str(tmp_path / "rows.parquet"))
    file.write_bytes(held.stored_bytes(4))
    stored = StoredRows(file, held.total, 4)
    for start, stop in ((0, 4), (4, 8), (8, 10)):
        for mine, theirs in zip(stored.rows(start, stop), held.rows(start, stop), strict=True):
            assert np.array_equal(mine, theirs)
            assert mine.dtype == theirs.dtype


@pytest.mark.parametrize(("start", "stop"), [(1, 4), (0, 3), (4, 10)])
def test_rows_across_row_groups_are_refused(held, tmp_path, start, stop):
    stored = StoredRows(open_storage(str(tmp_path / "rows.parquet")), held.total, 4)
    with pytest.raises(ValueError, match="not a row group"):
        stored.rows(start, stop)
