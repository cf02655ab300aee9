"""One connection to Ray for all that runs within it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
import ray
from pipeline.cluster.connect import connected

def place() -> str:
    return ray.get_runtime_context().gcs_address

with connected():
    first = place()
    with connected():
        assert place() == first, (place(), first)
    assert ray.is_initialized() and place() == first
assert not ray.is_initialized()
"""


@pytest.mark.slow
def test_a_connection_within_another_is_that_one_and_leaves_it_open() -> None:
    """A local Ray is started once and stopped once, by whoever started it."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    subprocess.run(
        [sys.executable, "-c", SCRIPT], cwd=ROOT, env=environment, check=True, timeout=120
    )
