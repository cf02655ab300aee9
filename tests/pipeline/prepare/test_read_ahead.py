"""Reading ahead keeps the order, stops where it is told to, and hands on errors."""

import pytest

from pipeline.errors import InputError
from pipeline.prepare.sources.base import SourceSample, read_ahead


class Numbers:
    """A source of which the chunk number is the label; chunk 50 cannot be read."""

    labelled, class_names = True, None

    def __init__(self, samples: int) -> None:
        self.chunks, self.samples = 100, samples
        self.asked: list[int] = []

    def digest(self) -> str:
        return ""

    def read(self, chunk: int) -> list[SourceSample]:
        self.asked.append(chunk)
        if chunk == 50:
            raise InputError("chunk 50 is damaged")
        return [SourceSample(str(chunk), "", None, chunk)]


def test_chunks_come_in_the_order_that_was_asked_for() -> None:
    order = [7, 3, 99, *range(20, 45), 0]
    found = [(chunk, samples[0].label) for chunk, samples in read_ahead(Numbers(100), order)]
    assert found == [(chunk, chunk) for chunk in order]


@pytest.mark.parametrize(("samples", "ahead"), [(100, 16), (100_000, 2)])
def test_memory_is_bounded(samples: int, ahead: int) -> None:
    """No more chunks are asked for than are being read; large chunks are read two at a time."""
    source = Numbers(samples)
    reader = read_ahead(source, range(40))
    next(reader)
    reader.close()
    assert len(source.asked) <= ahead + 1


def test_an_error_comes_where_its_chunk_would() -> None:
    reader = read_ahead(Numbers(100), range(48, 60))
    assert [next(reader)[0], next(reader)[0]] == [48, 49]
    with pytest.raises(InputError, match="chunk 50 is damaged"):
        next(reader)
