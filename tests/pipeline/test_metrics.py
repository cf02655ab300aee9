"""Flattening, interval means, throughput and the progress line."""

import math

import pytest
import torch

from pipeline.metrics import (
    StepMeter,
    duration_text,
    elbo_metrics,
    flatten,
    progress_line,
)

TIMES = {
    "train/images_per_second": 210.3,
    "train/seconds_left": 112.0,
    "time/data_wait_seconds": 0.01,
    "time/forward_seconds": 0.05,
    "time/backward_seconds": 0.1,
    "time/optimizer_seconds": 0.015,
    "time/average_seconds": 0.005,
    "time/total_seconds": 0.2,
}


def test_flatten_joins_names_and_keeps_scalars():
    """Nested names are joined with a dot, lists become JSON text, nothing is dropped."""
    config = {"model": {"width": 64, "mult": [1, 2]}, "name": "a", "none": None, "empty": {}}
    assert flatten(config) == {
        "model.width": 64,
        "model.mult": "[1, 2]",
        "name": "a",
        "none": None,
        "empty": "{}",
    }


def test_meter_equals_the_mean_over_all_valid_examples():
    """The means weigh examples, not micro-batches, and equal a float64 reference."""
    generator = torch.Generator().manual_seed(0)
    meter, kept = StepMeter(["a", "b"]), []
    for size in (3, 1, 7):
        values = torch.randn(size, 2, generator=generator)
        valid = torch.rand(size, generator=generator) > 0.3
        meter.add({"b": values[:, 1], "a": values[:, 0]}, valid)
        kept.append(values[valid])
    expected = torch.cat(kept).double().mean(dim=0)
    means = meter.means(meter.take())
    assert means == pytest.approx({"a": expected[0].item(), "b": expected[1].item()}, rel=1e-12)


def test_meter_ignores_nan_in_holes_and_starts_anew():
    """A bad record's NaN does not reach the mean; after `take` nothing is counted."""
    meter = StepMeter(["a"])
    meter.add({"a": torch.tensor([1.0, math.nan])}, torch.tensor([True, False]))
    assert meter.means(meter.take()) == {"a": 1.0}
    assert math.isnan(meter.means(meter.take())["a"])


def test_totals_of_two_ranks_add_up():
    """Adding the totals of two meters gives the mean of one meter that saw everything."""
    one, two, both = (StepMeter(["a"]) for _ in range(3))
    left, right = torch.tensor([1.0, 2.0, 6.0]), torch.tensor([10.0])
    for meter, values in ((one, left), (two, right), (both, left), (both, right)):
        meter.add({"a": values}, torch.ones(len(values), dtype=torch.bool))
    assert one.means(one.take() + two.take()) == both.means(both.take())


def test_meter_names_what_is_missing():
    """A forgotten or misspelt name is an error, not a zero."""
    with pytest.raises(ValueError, match=r"\['a'\] was given \['b'\]"):
        StepMeter(["a"]).add({"b": torch.zeros(1)}, torch.ones(1, dtype=torch.bool))


def test_elbo_metrics_are_in_bits_per_dim():
    """`D ln 2` nats are one bit per dimension, and the total is the sum of the terms."""
    bit = 12 * math.log(2)
    values = elbo_metrics({"reconstruction": bit, "prior": 2 * bit, "diffusion": 4 * bit}, 12)
    assert values == pytest.approx(
        {
            "train/bits_per_dim": 7.0,
            "train/reconstruction": 1.0,
            "train/prior": 2.0,
            "train/diffusion": 4.0,
        }
    )


def test_elbo_metrics_take_whatever_terms_the_model_has():
    """An adaptive schedule's fourth term is part of the total, and of the line people watch."""
    nats = dict.fromkeys(("reconstruction", "prior", "diffusion", "auxiliary"), 12 * math.log(2))
    values = elbo_metrics(nats, 12)
    assert values["train/auxiliary"] == pytest.approx(1.0)
    assert values["train/bits_per_dim"] == pytest.approx(4.0)
    assert "(rec 1.00 prior 1.00 diff 1.00 aux 1.00)" in progress_line(1, 2, values | TIMES)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.4, "0s"),
        (59.4, "59s"),
        (59.6, "1m00s"),
        (112, "1m52s"),
        (11220, "3h07m"),
        (187200, "2d04h"),
    ],
)
def test_duration_text(seconds, text):
    """Durations show two units and never sixty of the smaller one."""
    assert duration_text(seconds) == text


def test_progress_line_reads_as_documented():
    """The line people watch has its figures, units and order."""
    values = {
        "train/bits_per_dim": 3.4121,
        "train/reconstruction": 0.011,
        "train/prior": 0.002,
        "train/diffusion": 3.399,
    }
    assert progress_line(120, 1500, values | TIMES) == (
        "step 120/1500  3.412 bits/dim  (rec 0.01 prior 0.00 diff 3.40)  210 images/s "
        "(wait 5% forward 25% backward 50% update 10% rest 10%)  1m52s left"
    )
