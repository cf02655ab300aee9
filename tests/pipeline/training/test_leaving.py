"""Ranks leave the training loop together: asked to, for bad data, or for a step gone wrong."""

import json
from typing import Any

import pytest

STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def runs(launch: Any, configure: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Every scenario on two workers; steps are logged in pairs, one rank is the one in trouble."""
    folder = tmp_path_factory.mktemp("leaving")
    base = [folder, "cluster.workers=2", "tracking.log_every=2", "checkpoint.every_steps=100"]
    poisoned = {f"poisoned {s}": configure(*base, f"deepspeed.zero_stage={s}") for s in STAGES}
    return launch("leaving_ranks", 2, folder, whole=configure(*base), **poisoned)


def test_undisturbed(runs: Any) -> None:
    """To the last step; saved there."""
    assert runs["whole"]["ended"] == [6, 6]
    assert runs["whole"]["saved"] == [6]
    assert sorted(runs["whole"]["logged"]) == [2, 4, 6]


def test_a_wish_of_one_rank_stops_all_after_the_same_step(runs: Any) -> None:
    """No rank waits for another; the state is saved, and logged as it was in the whole run."""
    run = runs["stopped"]
    assert run["ended"] == [3, 3]
    assert run["saved"] == [3]
    assert run["logged"][2] == runs["whole"]["logged"][2]


def test_a_leaving_node_is_a_reason_to_save_and_go_on(runs: Any) -> None:
    """The loss curve is as it was."""
    run = runs["node leaves"]
    assert run["ended"] == [6, 6]
    assert run["saved"] == [3, 6]
    assert run["logged"][6] == runs["whole"]["logged"][6]


def test_bad_input_of_one_rank_ends_all_alike(runs: Any) -> None:
    """An error that no restart mends, on every rank, after what was done is saved."""
    run = runs["bad input"]
    assert run["errors"] == ["AgreedInputError: 9 samples are bad"] * 2
    assert run["saved"] == [3]


def test_another_error_of_one_rank_names_it_on_the_others(runs: Any) -> None:
    """The rank's own error stays what it was; nobody meets a broken connection."""
    run = runs["broken"]
    assert run["errors"] == [
        "PeerError: rank 1: RuntimeError: no such disk",
        "RuntimeError: no such disk",
    ]
    assert run["saved"] == [3]


@pytest.mark.parametrize("stage", STAGES)
def test_a_gradient_that_is_no_number_never_reaches_the_weights(runs: Any, stage: int) -> None:
    """At every ZeRO stage: the weights stay finite, nothing is saved, the step and data are named.

    Only the third step is bad and the interval ends with the fourth.
    """
    run = runs[f"poisoned {stage}"]
    assert run["finite"]
    assert run["unmoved"]
    assert run["saved"] == []
    assert sorted(run["logged"]) == [2]
    for error in run["errors"]:
        assert error.startswith("NonFiniteStepError: step 3: the gradient is not finite, though")
    report = json.loads(json.dumps(run["report"], allow_nan=False))
    assert report["step"] == 3
    assert not report["gradient_is_finite"]
    assert sorted(example["index"] for example in report["examples"]) == [*range(16, 24)]
    assert {example["key"] for example in report["examples"]} == {str(i) for i in range(16, 24)}
    assert all(0 <= example["time"] < 1 for example in report["examples"])
    assert len({example["time"] for example in report["examples"]}) == 8
