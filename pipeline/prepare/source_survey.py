"""Look at every image of a source before anything is written: all errors are found here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from pipeline.config.sample import PoolConfig
from pipeline.data.decode import Shape
from pipeline.data.writer import usable_key
from pipeline.errors import InputError
from pipeline.prepare.image_policy import ImagePolicy
from pipeline.prepare.sources.base import Source, read_ahead
from pipeline.prepare.survey import Survey, Surveyor, merged
from pipeline.prepare.tasks import Work, run_all
from pipeline.progress import Progress

_TASK_SAMPLES = 2048


@dataclass
class Surveyed:
    """A survey and, for what was surveyed, what packing must know besides."""

    survey: Survey = field(default_factory=Survey)
    left_out: list[tuple[int, int]] = field(default_factory=list)  # (chunk, row)
    chunk_bytes: list[int] = field(default_factory=list)  # encoded, of usable images


@dataclass(frozen=True)
class Expected:
    """What the images of one split must be like."""

    policy: ImagePolicy
    classes: int | None  # labels must be below it; None: not known beforehand
    max_bad_fraction: float
    split: str


class SourceSurveyor:
    """Surveys the chunks [cuts[n], cuts[n + 1]) as task n."""

    def __init__(
        self, source: Source, cuts: Sequence[int], expected: Expected, shape: Shape | None
    ) -> None:
        """Without `shape`, the first usable image of a task decides it."""
        self._source, self._cuts, self._expected, self._shape = source, cuts, expected, shape

    def __call__(self, task: int) -> Surveyed:
        """Raises InputError for anything that must be mended."""
        surveyor = Surveyor(self._expected.policy, self._expected.classes, self._shape)
        found = Surveyed(surveyor.survey)
        chunks = range(self._cuts[task], self._cuts[task + 1])
        for chunk, samples in read_ahead(self._source, chunks):
            before = surveyor.survey.image_bytes
            for row, sample in enumerate(samples):
                if not usable_key(sample.key):
                    raise InputError(f"{sample.place}: the name is not usable as a key; rename it")
                if not surveyor.add(sample.image, sample.label, sample.place):
                    found.left_out.append((chunk, row))
            found.chunk_bytes.append(surveyor.survey.image_bytes - before)
        return found


def survey_source(source: Source, expected: Expected, pool: PoolConfig) -> Surveyed:
    """The survey of all of `source`.

    Raises InputError for anything that must be mended, for a source with no usable image, and for
    more unusable ones than `max_bad_fraction`.
    """
    tasks = min(source.chunks, -(-source.samples // _TASK_SAMPLES))
    cuts = [task * source.chunks // tasks for task in range(tasks + 1)]
    parts = survey_tasks(
        tasks, source.samples, Surveyed, SourceSurveyor, (source, cuts, expected), expected, pool
    )
    return Surveyed(
        merged(part.survey for part in parts),
        [place for part in parts for place in part.left_out],
        [size for part in parts for size in part.chunk_bytes],
    )


S = TypeVar("S", bound=Surveyed)


def survey_tasks(
    tasks: int,
    samples: int | None,
    answer: type[S],
    surveyor: type,
    arguments: tuple[object, ...],
    expected: Expected,
    pool: PoolConfig,
) -> list[S]:
    """The answers of `surveyor(*arguments, shape)` to all tasks, in order.

    The first tasks are done here, up to the first usable image, which decides the shape for all:
    so the result does not depend on which actor is the fastest. `samples`: their number, if known.

    Raises InputError as the surveyor, for no usable image, and by `max_bad_fraction`.
    """
    progress = Progress(f"{expected.split}: checked", samples or tasks, unit=_unit(samples))
    found: dict[int, S] = {}
    shape: Shape | None = None
    bad = 0
    while len(found) < tasks:
        todo = [len(found)] if shape is None else list(range(len(found), tasks))
        for task, part in run_all(todo, Work(surveyor, (*arguments, shape)), answer, pool):
            found[task] = part
            bad += len(part.survey.bad)
            progress.add(part.survey.samples + len(part.survey.bad) if samples else 1)
            if samples and shape:
                _check_fraction(bad, samples, part.survey, expected)
        shape = shape or found[len(found) - 1].survey.shape
    whole = merged(part.survey for part in found.values())
    if not whole.samples:
        first = whole.bad[0] if whole.bad else "there is none"
        raise InputError(f"{expected.split}: none of {bad} images is usable: {first}")
    _check_fraction(bad, whole.samples + bad, whole, expected)
    return [found[task] for task in range(tasks)]


def _unit(samples: int | None) -> str:
    return "shards" if samples is None else "images"


def _check_fraction(bad: int, samples: int, survey: Survey, expected: Expected) -> None:
    if bad > expected.max_bad_fraction * samples:
        raise InputError(
            f"{expected.split}: {bad} of {samples} images are unusable, more than max_bad_fraction "
            f"{expected.max_bad_fraction:g} allows; for example {survey.bad[0]}"
        )
