"""What people read of an evaluation: the table and the picture show the numbers they stand for."""

import pytest

from pipeline.evaluation.evaluate import ImageTerms
from pipeline.evaluation.likelihood_report import (
    FurtherFigure,
    LikelihoodReport,
    likelihood_figure,
    report_text,
    tracked_figures,
)
from pipeline.evaluation.profile_report import VarianceOverTimes
from pipeline.evaluation.summary import BoundSummary

ERRORS = {"reconstruction": 0.0003, "prior": 0.0001, "diffusion": 0.0269}
TERMS = {"reconstruction": 0.01, "prior": 0.002, "diffusion": 3.1296}
BOUND = BoundSummary(1000, 3.14159, 0.0271, TERMS, ERRORS)


def report(**changes) -> LikelihoodReport:
    fields = {
        "bound": BOUND, "iid_pixel_bits_per_dim": 4.8912, "time": "continuous time",
        "conditional": True, "draws": 8, "split": "test", "model": "/m", "data": "/d",
        "request": {"seed": 0}, "data_digest": "0123456789abcdef",
    }  # fmt: skip
    return LikelihoodReport(**(fields | changes))


def test_the_table_has_the_bound_its_error_its_terms_and_what_it_holds_for():
    text = report_text(report())
    first, bound = text.splitlines()[:2]
    assert first == "test: 1,000 images, each once, draws per image: 8"
    assert "3.1416 ± 0.0271 bits/dim" in bound
    assert "continuous time, conditional on the label" in bound
    for line in text.splitlines()[1:5]:  # each figure with what it must be read with
        assert line.endswith("data 0123456789ab")
        assert "continuous time" in line
    for shown in ("reconstruction    0.0100 ± 0.0003", "prior ", "0.0020 ± 0.0001", "4.8912", "/m"):
        assert shown in text


def test_the_table_names_the_number_of_steps_and_does_without_a_baseline():
    text = report_text(report(time="T = 1000", conditional=False, iid_pixel_bits_per_dim=None))
    assert "T = 1000, unconditional" in text
    assert "i.i.d." not in text


def test_further_figures_and_a_fourth_term_are_shown_with_what_they_are():
    """In the table under their own names, and in the tracker's figures."""
    ode = FurtherFigure(bits_per_dim=3.0321, standard_error=0.02, meaning="NLL of the ODE")
    terms, errors = TERMS | {"auxiliary": 0.0584}, ERRORS | {"auxiliary": 0.001}
    bound = BoundSummary(1000, 3.2, 0.0271, terms, errors)
    made = report(bound=bound, further={"ode": ode})
    text = report_text(made)
    assert "  auxiliary         0.0584 ± 0.0010" in text
    assert "  ode               3.0321 ± 0.0200 bits/dim   NLL of the ODE" in text
    assert LikelihoodReport.model_validate_json(made.model_dump_json()) == made
    figures = tracked_figures(made)
    assert figures["test/auxiliary"] == 0.0584
    assert figures["test/ode_bits_per_dim"] == 3.0321
    assert figures["test/ode_standard_error"] == 0.02
    assert "test/auxiliary" not in tracked_figures(report())


def test_the_gain_of_the_schedule_is_shown_beside_what_is_possible():
    variance = VarianceOverTimes(
        linear=8.0, learned=2.0, best=1.0, gain=4.03, gain_error=0.05, possible=7.09,
        possible_error=0.11,
    )  # fmt: skip
    text = report_text(report(variance=variance))
    assert "4.03 ± 0.05 times the variance; the best schedule gives 7.09 ± 0.11" in text
    assert "8.0000 with a linear schedule of the same ends" in text


def test_a_report_survives_its_journey_through_json():
    before = report()
    assert LikelihoodReport.model_validate_json(before.model_dump_json()) == before


@pytest.mark.parametrize("labelled", [True, False])
def test_the_picture_shows_the_mean_of_each_class(labelled):
    results = [
        ImageTerms(i, str(i), i % 2 if labelled else None, {"diffusion": float(10 + i % 2)})
        for i in range(10)
    ]
    figure = likelihood_figure(results, dims=8, class_names=("cat", "dog"), iid_bits=2.0)
    assert len(figure.axes) == (2 if labelled else 1)
    assert sum(bar.get_height() for bar in figure.axes[0].patches) == 10
    if labelled:
        dots = figure.axes[1].lines[0].get_xdata()
        assert list(dots) == pytest.approx([10 / (8 * 0.693147), 11 / (8 * 0.693147)], rel=1e-5)
        names = [label.get_text() for label in figure.axes[1].get_yticklabels()]
        assert names == ["cat", "dog"]
