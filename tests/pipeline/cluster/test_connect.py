"""One connection to Ray for all that runs within it; an address that cannot work is refused."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster.connect import connected
from pipeline.errors import InputError

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


@pytest.mark.parametrize("address", ["http://127.0.0.1:8265", "https://head.example"])
def test_a_jobs_server_is_no_cluster_to_join(address, monkeypatch):
    """Whoever has exported its address for `ray job submit` is told what to do, in one message."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(InputError, match=rf"RAY_ADDRESS={address} .* `ray job submit"), connected():
        pass
