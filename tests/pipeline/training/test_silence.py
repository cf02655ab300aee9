"""A rank that keeps silent in the middle of a step."""

from pathlib import Path
from typing import Any

import pytest


@pytest.mark.slow
def test_the_gradients_wait_for_a_silent_rank_as_long_as_configured(
    launch: Any, configure: Any, tmp_path: Path
) -> None:
    """`cluster.collective_timeout_seconds` holds in DeepSpeed's own process group too.

    That group would have torch's time-outs: half an hour over gloo, ten minutes over NCCL.
    """
    config = configure(tmp_path, "cluster={workers: 2, collective_timeout_seconds: 2}")
    assert "Timed out waiting 2000ms" in launch("silent_ranks", 2, tmp_path, config=config)
