"""Waiting for nodes that come late, on a real cluster that grows."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.cluster.wait import wait_for_nodes
from pipeline.errors import InputError

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = """
from concurrent.futures import ThreadPoolExecutor
import ray
from ray.cluster_utils import Cluster
from pipeline.config.train import ClusterConfig
from pipeline.errors import InputError
from pipeline.training.launch import await_resources

cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
ray.init(address=cluster.address)
wanted = ClusterConfig(workers=3, wait_seconds=1)
try:
    await_resources(wanted)
except InputError as error:
    assert "3 workers need 3 CPUs but the cluster has 1" in str(error), error
else:
    raise AssertionError("did not refuse")
waiting = ThreadPoolExecutor().submit(
    await_resources, wanted.model_copy(update={"wait_seconds": 200})
)
cluster.add_node(num_cpus=2)
waiting.result()
assert ray.cluster_resources()["CPU"] == 3
ray.shutdown()
cluster.shutdown()
print("grew")
"""


def test_without_waiting_a_refusal_comes_at_once():
    """No request to an autoscaler, no cluster needed: what was refused is raised as it is."""

    def enough() -> None:
        raise InputError("too small")

    with pytest.raises(InputError, match="too small"):
        wait_for_nodes(enough, [{"CPU": 1}], 0)


@pytest.mark.slow
def test_a_cluster_that_grows_is_waited_for_and_one_that_does_not_refused():
    """The first wait ends with the refusal, the second with the node that comes."""
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT],
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.stdout.endswith("grew\n"), done.stderr[-3000:]
