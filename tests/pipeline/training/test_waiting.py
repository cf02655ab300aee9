"""Between two reports nothing in a training step waits for the device."""

from typing import Any

import pytest

STAGES = (0, 1, 2, 3)
INPUT_CHECKS = {"rng.py:_words", "inputs.py:check_times", "labels.py:check_labels"}
"""They look at tensors on the CPU only; `tests/vdm_core/test_no_waiting.py` holds them to it."""


@pytest.fixture(scope="module")
def runs(launch: Any, configure: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A rank that watches a step of two micro-batches at each stage, in bfloat16."""
    folder = tmp_path_factory.mktemp("waiting")
    configs = {
        f"stage_{stage}": configure(
            folder,
            f"deepspeed={{zero_stage: {stage}, precision: bfloat16}}",
            "data.micro_batch=4",
        )
        for stage in STAGES
    }
    return launch("waiting_ranks", 1, folder, **configs)


@pytest.mark.parametrize("stage", STAGES)
def test_a_step_asks_for_no_value(runs: Any, stage: int) -> None:
    """Neither ours nor DeepSpeed's part of it: draws, passes, clipping, update, averages, sums."""
    assert runs[f"stage_{stage}"]["step"] - INPUT_CHECKS == set()


@pytest.mark.parametrize("stage", STAGES)
def test_a_report_asks_for_values(runs: Any, stage: int) -> None:
    """What is counted here is there to be counted."""
    assert "engine.py:gradient_norm" in runs[f"stage_{stage}"]["report"]
    assert any(place.startswith("finite.py") for place in runs[f"stage_{stage}"]["report"])
