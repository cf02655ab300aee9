"""Nearest neighbours by pixels and what pixels are like: against all pairs in integers."""

import numpy as np
import pytest

from pipeline.cluster.kept_ranges import Range
from pipeline.config.features import ImagesConfig
from pipeline.config.quality import GateJobConfig
from pipeline.quality.neighbours import NearestWorker
from pipeline.quality.pixels import PixelWorker

RNG = np.random.default_rng(0)
DATA = RNG.integers(0, 256, (37, 1, 6, 5), dtype=np.uint8)
SAMPLES = RNG.integers(0, 256, (21, 1, 6, 5), dtype=np.uint8)
SAMPLES[4], SAMPLES[9] = DATA[30], DATA[11] ^ 1  # a copy, and one that differs by a level


@pytest.fixture
def config(write_set):
    samples, data = write_set("samples", SAMPLES), write_set("data", DATA)

    def make(**gate) -> GateJobConfig:
        fields = {"samples": samples, "gate": {"against": {"path": data}} | gate, "batch_size": 10}
        return GateJobConfig.model_validate(fields)

    return make


def squared(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """All pairs, exactly."""
    a, b = (part.reshape(len(part), -1).astype(np.int64) for part in (one, other))
    return ((a[:, None] - b[None]) ** 2).sum(-1)


def test_the_nearest_training_image_is_found_and_a_copy_is_at_zero(config):
    made = config()
    worker = NearestWorker(made, ImagesConfig(path=made.samples), made.gate.against)
    tables = [worker(Range(0, 8)), worker(Range(8, 21))]
    expected = squared(SAMPLES, DATA)
    nearest = np.concatenate([table["nearest"].to_numpy() for table in tables])
    assert nearest.tolist() == expected.argmin(1).tolist()
    found = np.concatenate([table["squared"].to_numpy() for table in tables])
    assert found.tolist() == expected.min(1).tolist()
    assert (found[4], found[9]) == (0, 30)


def test_within_one_set_no_image_is_its_own_neighbour(config):
    made = config()
    own = made.gate.against
    table = NearestWorker(made, own, own)(Range(0, 37))
    expected = squared(DATA, DATA) + np.diag([10**12] * 37)
    assert table["nearest"].to_pylist() == expected.argmin(1).tolist()
    assert table["squared"].to_pylist() == expected.min(1).tolist()
    again = ImagesConfig(path=f"{own.path}/.")  # the same set by another name
    assert NearestWorker(made, own, again)(Range(0, 37)) == table


def test_a_limited_search_asks_for_images_from_the_whole_set(config):
    """Evenly spaced, each with its own place, against all images of the other set."""
    made = config(neighbour_images=5)
    own = made.gate.against
    table = NearestWorker(made, own, own)(Range(0, 5))
    places = [0, 7, 14, 22, 29]
    assert table["place"].to_pylist() == places
    expected = squared(DATA, DATA) + np.diag([10**12] * 37)
    assert table["squared"].to_pylist() == expected.min(1)[places].tolist()


def test_pixels_are_described_image_by_image(config, write_set):
    images = np.stack([np.full((1, 4, 4), 7), np.full((1, 4, 4), 7), np.zeros((1, 4, 4))])
    images = images.astype(np.uint8)
    images[2, 0, 0, 0] = 90
    made = config().model_copy(update={"samples": write_set("odd", images)})
    table = PixelWorker(made)(Range(0, 3))
    assert table["span"].to_pylist() == [0, 0, 90]
    assert table["ends"].to_pylist() == [0.0, 0.0, 15 / 16]
    digests = table["digest"].to_pylist()
    assert digests[0] == digests[1] != digests[2]
