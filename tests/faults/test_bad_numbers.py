"""What no restart mends ends the run at once: a loss that is no number, data that are no images."""

import json
from typing import Any

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


def test_a_loss_that_is_not_finite(run: Any) -> None:
    """The step and its examples are named and kept; nothing of it is saved; no restart."""
    here = run("optimizer.learning_rate=1e30")
    here.finish(here.start(), code=1)
    error = here.log.rpartition("error: ")[2]
    assert error.startswith("step 2: the loss of ")
    assert "nonfinite_step_2.json" in error
    assert "Traceback" not in error
    report = json.loads((here.folder / "runs/tiny/nonfinite_step_2.json").read_text())
    assert sorted(example["index"] for example in report["examples"]) == [*range(8, 16)]
    assert all(example["key"].startswith("s") for example in report["examples"])
    assert here.checkpoints() == []
    curves = here.curves(status="FAILED")
    assert [step for step, _ in curves["train/bits_per_dim"]] == [1]


def test_a_bad_sample_of_one_worker(run: Any) -> None:
    """One message that names the sample, exit code 2, no restart, what was done is saved."""
    here = run("data.on_bad_sample=raise", "data.shuffle_window=1", broken=(23,))
    here.finish(here.start(), code=2)
    error = here.log.rpartition("error: ")[2]
    assert "000023" in error
    assert "set on_bad_sample: skip" in error
    assert "Traceback" not in error
    assert here.status() == "FAILED"
