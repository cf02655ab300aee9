"""The loss curve in the repository is what training gives, today, everywhere."""

import json
from pathlib import Path
from typing import Any

import golden_curve
import pytest

STAGES = (0, 1, 2, 3)


@pytest.fixture(scope="module")
def golden() -> Any:
    """The curve as it is kept, to 1e-5 relative."""
    kept = json.loads(golden_curve.GOLDEN.read_text())["bits_per_dim"]
    assert len(kept) == golden_curve.STEPS
    return pytest.approx(kept, rel=1e-5)


def test_plain_pytorch(golden: Any, tmp_path: Path) -> None:
    """Initial weights, order of the data, random draws, mathematics and Adam are what they were."""
    golden_curve.pack(tmp_path)
    assert golden_curve.plain_curve(golden_curve.config(tmp_path)) == golden


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_pipeline(golden: Any, launch: Any, tmp_path: Path, workers: int) -> None:
    """Stream, loop and engine give it on one worker and on two, at every ZeRO stage."""
    golden_curve.pack(tmp_path)
    stages = {
        stage: golden_curve.config(
            tmp_path, f"cluster.workers={workers}", f"deepspeed.zero_stage={stage}"
        )
        for stage in STAGES
    }
    curves = launch("golden_ranks", workers, tmp_path / "ranks", stages=stages)
    for stage in STAGES:
        assert curves[stage] == golden, stage
