"""What a step draws belongs to the global sample index, wherever the sample is computed."""

from dataclasses import replace

import pytest
import torch

from pipeline.training.step import StepSettings, training_draws
from vdm_core.family import Draw
from vdm_core.records import Batch
from vdm_core.rng import Purpose, normal

CPU = torch.device("cpu")
SETTINGS = StepSettings(
    seed=3, global_batch=64, conditional=True, drop_label=0.25, decoder_radius=1, dims=16
)

NEEDS = {
    "times": Draw(Purpose.TIMES),
    "noise": Draw(Purpose.NOISE, (1, 4, 4)),
    "noise_0": Draw(Purpose.NOISE_0, (1, 4, 4)),
}


def batch(indices: list[int]) -> Batch:
    """Labels that tell the index; the images do not matter here."""
    return Batch(
        images=torch.zeros(len(indices), 1, 4, 4, dtype=torch.uint8),
        labels=torch.tensor([index % 10 for index in indices]),
        indices=torch.tensor(indices),
        valid=torch.ones(len(indices), dtype=torch.bool),
        keys=tuple(map(str, indices)),
    )


def test_draws_belong_to_the_index() -> None:
    """A worker's part of a batch gets the rows that the whole batch has."""
    labels, draws = training_draws(NEEDS, batch([*range(64, 128)]), SETTINGS, CPU)
    part = [64 + 5, 64 + 33, 64 + 1]
    own_labels, own_draws = training_draws(NEEDS, batch(part), SETTINGS, CPU)
    rows = torch.tensor(part) - 64
    assert labels is not None
    assert own_labels is not None
    assert torch.equal(own_labels, labels[rows])
    assert all(torch.equal(own_draws[name], draw[rows]) for name, draw in draws.items())


def test_an_adaptive_schedule_gets_the_noise_of_its_latent() -> None:
    """A row for each index, independent of the other draws; other schedules get none."""
    assert "noise_latent" not in training_draws(NEEDS, batch([0, 1]), SETTINGS, CPU)[1]
    adaptive = NEEDS | {"noise_latent": Draw(Purpose.LATENT, (3,))}
    _, draws = training_draws(adaptive, batch([4, 9]), SETTINGS, CPU)
    expected = normal(3, Purpose.LATENT, torch.tensor([4, 9]), (3,))
    assert torch.equal(draws["noise_latent"], expected)


def test_times_are_stratified_over_the_global_batch() -> None:
    """One time in each of the 64 intervals, whoever computes it."""
    _, draws = training_draws(NEEDS, batch([*range(64, 128)]), SETTINGS, CPU)
    assert sorted((draws["times"] * 64).floor().tolist()) == [*range(64)]


@pytest.mark.parametrize(("share", "expected"), [(0.0, 0.0), (0.25, 0.25), (1.0, 1.0)])
def test_share_of_dropped_labels(share: float, expected: float) -> None:
    """Labels become -1 with the probability asked for, and are otherwise kept."""
    given = batch([*range(4000)])
    labels, _ = training_draws(NEEDS, given, replace(SETTINGS, drop_label=share), CPU)
    assert labels is not None
    dropped = labels == -1
    assert dropped.double().mean().item() == pytest.approx(expected, abs=0.03)
    assert given.labels is not None
    assert torch.equal(labels[~dropped], given.labels[~dropped])


def test_an_unconditional_model_gets_no_labels() -> None:
    """Whatever the data has; and data without labels gives none."""
    given = batch([0, 1])
    assert training_draws(NEEDS, given, replace(SETTINGS, conditional=False), CPU)[0] is None
    assert training_draws(NEEDS, replace(given, labels=None), SETTINGS, CPU)[0] is None
