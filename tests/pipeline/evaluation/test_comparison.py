"""Models side by side: differences are of the same images, with the error that belongs to them."""

import csv
import io

import numpy as np
import pytest

from pipeline.evaluation.comparison import (
    HEADER,
    Evaluated,
    compare,
    comparison_figure,
    table_csv,
    table_markdown,
)
from pipeline.evaluation.evaluate import ImageTerms
from pipeline.evaluation.likelihood_report import FurtherFigure, LikelihoodReport
from pipeline.evaluation.summary import image_table, summarise

DIMS, IMAGES = 8, 50


def evaluated(name: str, diffusion: np.ndarray, keys: str = "k") -> Evaluated:
    results = [
        ImageTerms(i, f"{keys}{i}", None, {"prior": 1.5, "diffusion": value}, ode=value + 2.0)
        for i, value in enumerate(diffusion.tolist())
    ]
    ode = FurtherFigure(bits_per_dim=0.0, standard_error=0.0, meaning="the ODE's")
    request = {"weights_sha256": f"{name}-weights-0123"}
    report = LikelihoodReport(
        bound=summarise(results, DIMS), further={"ode": ode}, iid_pixel_bits_per_dim=None,
        time="T = 9", conditional=True, draws=1, split="test", model=name, data="/d",
        data_digest="d" * 64, request=request,
    )  # fmt: skip
    return Evaluated(name, report, image_table(results, DIMS, request))


@pytest.fixture(scope="module")
def models() -> list[Evaluated]:
    """Two models that differ little from image to image, though images differ much."""
    rng = np.random.default_rng(0)
    hard = rng.gamma(5.0, 4.0, IMAGES)
    return [evaluated("a", hard), evaluated("b", hard - 0.3 + rng.normal(0, 0.05, IMAGES))]


def test_a_difference_has_the_error_of_the_images_differences(models):
    """Against numpy; here it is a small part of what unpaired means would give."""
    rows = {(row.name, row.figure): row for row in compare(models)}
    assert list(rows) == [("a", "bound"), ("b", "bound"), ("a", "ode"), ("b", "ode")]
    values = [m.images["diffusion"].to_numpy() / (DIMS * np.log(2)) for m in models]
    for figure in ("bound", "ode"):
        first, other = rows["a", figure], rows["b", figure]
        assert first.difference is None
        assert other.difference == pytest.approx((values[1] - values[0]).mean(), rel=1e-9)
        error = (values[1] - values[0]).std(ddof=1) / IMAGES**0.5
        assert other.difference_error == pytest.approx(error, rel=1e-9)
        assert other.difference_error < 0.05 * np.hypot(first.error, other.error)
    assert (rows["a", "bound"].time, rows["a", "ode"].time) == ("T = 9", "the ODE's")


def test_the_tables_say_the_same_and_what_they_are_of(models):
    rows = compare(models)
    header, *lines = csv.reader(io.StringIO(table_csv(rows).decode()))
    assert tuple(header) == HEADER
    assert [float(line[2]) for line in lines] == [row.mean for row in rows]
    assert lines[1][8:] == ["d" * 64, "b-weights-0123"]
    markdown = table_markdown(rows)
    assert f"| b | bound | {rows[1].mean:.4f} ± {rows[1].error:.4f} | -0.05" in markdown
    assert "50 images, data dddddddddddd." in markdown
    assert "same images, times and noises" in markdown


def test_the_picture_has_the_means_and_the_paired_differences(models):
    rows = compare(models)
    left, right, *_ = comparison_figure(rows).axes
    assert list(left.lines[0].get_xdata()) == [rows[0].mean, rows[1].mean]
    assert list(right.lines[0].get_xdata()) == [0.0, rows[1].difference]
    assert [text.get_text() for text in left.get_yticklabels()] == ["a", "b"]


def test_other_images_are_not_compared(models):
    with pytest.raises(ValueError, match="other images"):
        compare([models[0], evaluated("c", np.ones(IMAGES), keys="other")])
