"""Surveys add up exactly, however the images are dealt to those who look."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from pipeline.prepare.image_policy import ImagePolicy
from pipeline.prepare.survey import Survey, Surveyor, merged

POLICY = ImagePolicy(None, 2**24, "skip")
IMAGES = np.random.Generator(np.random.Philox(3)).integers(0, 256, (20, 3, 5, 4), np.uint8)


def survey(images: np.ndarray, first: int = 0) -> Survey:
    surveyor = Surveyor(POLICY, None, (3, 5, 4))
    for n, image in enumerate(images, first):
        surveyor.add(b"?" if n % 7 == 6 else image, n % 3, f"image {n}")
    return surveyor.survey


@given(st.lists(st.integers(0, 20), max_size=4).map(sorted))
def test_parts_add_up_to_the_whole(cuts: list[int]) -> None:
    ends = [0, *cuts, 20]
    parts = [survey(IMAGES[a:b], a) for a, b in itertools.pairwise(ends)]
    whole = merged(parts)
    assert whole == survey(IMAGES)
    used = IMAGES[[n for n in range(20) if n % 7 != 6]] / 255
    mean, std = whole.mean_std()
    assert mean == pytest.approx(used.mean((0, 2, 3)), rel=1e-14)
    assert std == pytest.approx(used.std((0, 2, 3)), rel=1e-12)


def test_a_survey_travels_as_json() -> None:
    adapter = TypeAdapter(Survey)
    found = survey(IMAGES)
    assert adapter.validate_json(adapter.dump_json(found)) == found
    assert len(found.bad) == 2
