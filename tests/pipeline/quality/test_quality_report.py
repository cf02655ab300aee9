"""What people read of distances: the numbers, their names, and what they must be read with."""

import pytest

from pipeline.quality.features import FeatureNames
from pipeline.quality.measure import QualityReport, SetQuality
from pipeline.quality.report import quality_figure, quality_table, set_labels

NAMES = FeatureNames("Fréchet", "kernel", "precision", "recall", "features 0123456789ab")


def one(path: str, images: int = 600) -> SetQuality:
    return SetQuality(
        path=path, images=images, manifest_sha256="m", frechet=0.7792, kernel=0.0146,
        kernel_deviation=0.0088, kernel_subset=500, precision=0.893, recall=0.867,
    )  # fmt: skip


def report(*sets: SetQuality) -> QualityReport:
    return QualityReport(
        names=NAMES, dims=64, against="/data/test", against_images=1000,
        against_manifest_sha256="d6abaf9e5238ff", subsets=100, neighbour=3, neighbour_images=10_000,
        sets=sets,
    )  # fmt: skip


def test_the_table_has_every_set_and_what_it_was_measured_with():
    text = quality_table(report(one("/runs/a/samples"), one("/runs/b/samples", images=40)))
    assert "| a/samples | 600 | 0.779 | 14.600 ± 8.800 | 0.893 | 0.867 |" in text
    assert "features 0123456789ab, 64 of them" in text
    assert "1,000 images of /data/test, data d6abaf9e5238." in text
    assert "(of 500, 500 images each)" in text
    assert "b/samples: no more images than features" in text
    assert "a/samples: no more" not in text


@pytest.mark.parametrize(
    ("paths", "labels"),
    [
        (("/x/a", "/x/b/"), ["a", "b"]),
        (("/x/a/s", "/x/b/s"), ["a/s", "b/s"]),
        (("/x/a", "/x/a"), ["/x/a", "/x/a"]),
    ],
)
def test_sets_are_called_by_what_tells_them_apart(paths, labels):
    assert set_labels(report(*map(one, paths))) == labels


def test_the_picture_shows_each_sets_distances():
    panels = quality_figure(report(one("/a"), one("/b"))).axes
    assert [bar.get_width() for bar in panels[0].patches] == [0.7792, 0.7792]
    assert list(panels[2].lines[0].get_xdata()) == [0.893, 0.893]
