"""A run is one run: however it is cut up, distributed, interrupted or damaged on the way."""

from typing import Any

import pytest
import torch

COMMON = ["tracking.log_every=1", "data.max_bad_fraction=0.5"]
STEPS = [1, 2, 3, 4, 5, 6]
LONG = ["steps=50", "checkpoint.every_steps=50", "optimizer.learning_rate=0.002"]


@pytest.fixture(scope="module")
def data(pack: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    """24 packed images, one of which is not an image."""
    return pack(tmp_path_factory.mktemp("data") / "set", broken=(7,))


@pytest.fixture(scope="module")
def two(launch: Any, configure: Any, data: str, tmp_path_factory: Any) -> Any:
    """Everything that was done on two workers."""
    folder = tmp_path_factory.mktemp("two")
    base = [folder, *COMMON, f"data.train={data}", "cluster.workers=2"]
    runs = {
        "whole": configure(*base),
        "keeps one": configure(*base, "checkpoint={every_steps: 2, keep: 1}", "steps=5"),
        "long": configure(*base, *LONG),
    }
    return launch("training_ranks", 2, folder, **runs)


@pytest.fixture(scope="module")
def one(launch: Any, configure: Any, data: str, tmp_path_factory: Any) -> Any:
    """Everything that was done on one worker."""
    folder = tmp_path_factory.mktemp("one")
    base = [folder, *COMMON, f"data.train={data}"]
    runs = {
        "whole": configure(*base),
        "accumulated": configure(*base, "data.micro_batch=4"),
        "long": configure(*base, *LONG),
        "long, accumulated": configure(*base, *LONG, "data.micro_batch=4"),
        "unconditional": configure(*base, "model.conditional=false", "steps=2"),
        "adaptive": configure(
            *base, "model.schedule={kind: adaptive, latent_dim: 2, width: 4}", "steps=2"
        ),
    }
    return launch("training_ranks", 1, folder, **runs)


def series(run: Any, name: str) -> list[float]:
    """One metric over the steps."""
    return [values[name] for _, values in sorted(run["values"].items())]


def test_workers_and_accumulation_change_nothing(one: Any, two: Any) -> None:
    """One worker, one worker in two passes, two workers: the same losses, γ and gradient norms."""
    for name in two["whole"]["values"][1]:
        plain = series(one["whole"], name)
        assert series(one["accumulated"], name) == pytest.approx(plain, rel=1e-5), name
        assert series(two["whole"], name) == pytest.approx(plain, rel=1e-5), name


def test_the_loss_curves_are_still_the_same_after_fifty_steps(one: Any, two: Any) -> None:
    """The loss to 1e-5 relative in float32, each of its terms to 1e-6 bits/dim if that is more."""
    for name, least in (("bits_per_dim", 0.0), ("reconstruction", 1e-6), ("diffusion", 1e-6)):
        plain = series(one["long"], f"train/{name}")
        assert len(plain) == 50
        same = pytest.approx(plain, rel=1e-5, abs=least)
        assert series(one["long, accumulated"], f"train/{name}") == same
        assert series(two["long"], f"train/{name}") == same


def test_bad_samples_are_met_and_ignored(one: Any, two: Any) -> None:
    """The image that is none leaves a hole; whatever stands in a hole reaches nothing."""
    assert one["whole"]["bad"] > 0
    assert one["invalid is ignored"]


def test_an_unconditional_model_takes_labelled_data(one: Any) -> None:
    """Labels that the model does not ask for are left out."""
    assert sorted(one["unconditional"]["values"]) == [1, 2]


def test_what_is_reported_and_when(two: Any) -> None:
    """Metrics every interval, checkpoints on time and at the end, pictures at the end."""
    run = two["whole"]
    assert sorted(run["values"]) == STEPS
    assert (run["saved"], run["pictured"]) == ([4, 6], [6])
    parts = sum(run["values"][6][f"train/{t}"] for t in ("reconstruction", "prior", "diffusion"))
    assert run["values"][6]["train/bits_per_dim"] == pytest.approx(parts)
    assert series(run, "train/learning_rate")[-1] == pytest.approx(0.01)


def test_an_adaptive_schedule_reports_its_fourth_term_and_its_ends(one: Any) -> None:
    """The total has four parts; γ(0) and γ(1) are means over the pixels, here near the start."""
    for values in one["adaptive"]["values"].values():
        terms = ("reconstruction", "prior", "diffusion", "auxiliary")
        parts = sum(values[f"train/{term}"] for term in terms)
        assert values["train/bits_per_dim"] == pytest.approx(parts)
        assert values["schedule/gamma_0"] == pytest.approx(-13.3, abs=0.1)
        assert values["schedule/gamma_1"] == pytest.approx(5.0, abs=0.1)


def test_interrupted_equals_uninterrupted(two: Any) -> None:
    """Killed after step 5, resumed from 4: the same metrics, weights and averages, bit for bit."""
    whole, first, second = two["whole"], two["first life"], two["second life"]
    assert first["error"].startswith("InterruptedRunError")
    assert (first["from"], second["from"]) == (0, 4)
    assert first["values"] | second["values"] == whole["values"]
    assert all(torch.equal(second["weights"][n], w) for n, w in whole["weights"].items())
    assert set(whole["ema"]) == {"decay_0.9", "width_0.1"}
    for average, tensors in whole["ema"].items():
        assert all(torch.equal(second["ema"][average][n], w) for n, w in tensors.items())


@pytest.mark.parametrize(
    ("damage", "step"),
    [
        ("nothing", 6),
        ("flipped byte", 4),
        ("truncated", 4),
        ("missing", 4),
        ("no commit", 4),
        ("unreadable commit", 4),
        ("none left", None),
    ],
)
def test_a_damaged_checkpoint_falls_back(two: Any, damage: str, step: int | None) -> None:
    """The newest checkpoint that is whole is the one to go on from."""
    assert two["restored"][damage] == step


def test_all_damaged_is_an_error(two: Any) -> None:
    """A run with checkpoints never silently starts anew."""
    assert "every checkpoint in" in two["restored"]["all"]


def test_a_checkpoint_of_another_version_is_not_passed_over(two: Any) -> None:
    """All ranks say so, where one alone would leave the others waiting."""
    assert "is of format 99, which this version does not read" in two["restored"]["foreign commit"]


def test_retention(two: Any) -> None:
    """Only `keep` checkpoints stay, the last step's among them."""
    assert two["keeps one"]["saved"] == [2, 4, 5]
    assert two["keeps one"]["folders"] == ["checkpoint_000000005"]


def test_retention_beside_a_damaged_checkpoint(two: Any) -> None:
    """A damaged checkpoint of a later step does not count: what was just saved stays."""
    run = two["beside a damaged one"]
    assert (run["from"], run["saved"]) == (4, [5])
    assert run["folders"] == ["checkpoint_000000005", "checkpoint_000000006"]


@pytest.mark.parametrize("run", ["poisoned", "poisoned at stage 0"])
def test_stops_before_it_saves_nan(two: Any, run: str) -> None:
    """Weights that are no numbers end the run with the step and an example named."""
    assert two[run]["error"].startswith("NonFiniteStepError: step 1: the loss of 8 of 8 examples")
    assert two[run]["saved"] == []
    assert two[run]["folders"] == []
