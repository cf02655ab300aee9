"""The prefetching thread: order, errors and a clean end."""

import itertools
import threading
from collections.abc import Iterator

import pytest

from pipeline.data.prefetch import Prefetch


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.mark.parametrize("depth", [1, 3, 50])
def test_items_come_in_order_and_end(depth: int) -> None:
    with Prefetch(range(20), depth=depth) as ahead:
        assert list(ahead) == list(range(20))
        assert list(ahead) == []
    assert threads() == 0


def test_an_error_is_raised_where_its_item_would_have_come() -> None:
    def failing() -> Iterator[int]:
        yield 1
        yield 2
        raise KeyError("third")

    with Prefetch(failing(), depth=5) as ahead:
        items = iter(ahead)
        assert [next(items), next(items)] == [1, 2]
        with pytest.raises(KeyError, match="third"):
            next(items)
    assert threads() == 0


def test_closing_early_ends_the_thread_of_an_endless_source() -> None:
    with Prefetch(itertools.count(), depth=2) as ahead:
        assert list(itertools.islice(ahead, 3)) == [0, 1, 2]
    ahead.close()
    assert threads() == 0


def test_no_more_than_depth_items_are_made_in_advance() -> None:
    made: list[int] = []
    reached = threading.Event()

    def source() -> Iterator[int]:
        for i in range(100):
            made.append(i)
            if i == 3:
                reached.set()
            yield i

    with Prefetch(source(), depth=2) as ahead:
        assert next(iter(ahead)) == 0
        assert reached.wait(5)  # 1 and 2 wait in the queue, 3 is made and waits for room
        assert made == [0, 1, 2, 3]


def test_a_depth_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="depth must be 1 or more"):
        Prefetch(range(3), depth=0)
