"""A cluster across several hosts, one of which is cut off.

The hosts are network namespaces. Where the machine does not allow them the test skips: the other
tests of this folder lose raylets on one host. What only this one has: addresses, names and ports
of the hosts' own, `ray start` as in infra/ray_up_aws.yaml, and a fault without a dead process: the
workers beyond the cut live on and nobody's connection is reset.
"""

import re
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml

from fault_runs import CONTINUING, ROOT
from hosts import Host, hosts
from pipeline.cluster.local_head import client_environment
from ray_nodes import ray_job, ray_node, wait_until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
CLUSTER_FILE = ROOT / "infra/ray_up_aws.yaml"
QUICK_NOTICE = {"RAY_health_check_timeout_ms": "5000", "RAY_health_check_period_ms": "1000"}


class HostCluster:
    """A Ray cluster across hosts of one CPU each, the first its head; jobs come in there."""

    def __init__(self, places: list[Host], folder: Path) -> None:
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        self.places, self._folder = places, folder
        self._processes: list[subprocess.Popen[bytes]] = []
        self._base = client_environment() | {"RAY_AUTH_TOKEN_PATH": str(token)}
        self._base.pop("RAY_AUTH_TOKEN", None)  # it would come before the file

    def start(self) -> None:
        """What `ray up` starts on each host, but `ray stop` and the autoscaler."""
        commands = yaml.safe_load(CLUSTER_FILE.read_text())
        head, worker = (commands[f"{kind}_start_ray_commands"][-1] for kind in ("head", "worker"))
        self._start(self.places[0], re.sub(r"--autoscaling-config=\S+", "", head))
        for host in self.places[1:]:
            self._start(host, worker)

    def end(self) -> None:
        """Kill `ray start` on each host; what it has started goes with the hosts."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _start(self, host: Host, command: str) -> None:
        head = self.places[0].address
        whole = f"exec env {command} --block --num-cpus=1 --num-gpus=0 --disable-usage-stats"
        environment = self._base | QUICK_NOTICE | {"RAY_HEAD_IP": head}
        process = ray_node(
            lambda: host.command("sh", "-c", whole),
            environment | {"RAY_ADDRESS": f"{head}:6379"},
            self._folder / f"{host.name}.log",
        )
        self._processes.append(process)

    @property
    def environment(self) -> dict[str, str]:
        """What a client on the head's host needs."""
        return self._base | {"RAY_ADDRESS": "http://127.0.0.1:8265"}

    def ray_job(self, *arguments: str) -> str:
        """The output of `ray job …`, given on the head's host."""
        return ray_job(self.places[0].command(), self.environment, *arguments)


@pytest.fixture
def host_cluster(tmp_path: Path) -> Iterator[HostCluster]:
    """Three hosts, so that one is spare."""
    with ExitStack() as stack:
        try:
            places = stack.enter_context(hosts(3, tmp_path))
        except PermissionError as error:
            pytest.skip(f"{error}; test_lost_workers.py covers raylets of one host")
        cluster = HostCluster(places, tmp_path)
        stack.callback(cluster.end)
        cluster.start()
        yield cluster


def test_a_host_is_cut_off(host_cluster: HostCluster, run: Any, undisturbed: Any) -> None:
    """The run goes on with a worker on the spare host; nothing of the lost one gets in between."""

    def log() -> str:
        return host_cluster.ray_job("logs", "train")

    here = run("cluster.collective_timeout_seconds=30")
    here.cluster = host_cluster
    here.submit("train")
    here.wait_for(lambda: here.committed(40))
    lost = next(host for host in host_cluster.places[1:] if host.workers())
    orphans = lost.workers()
    lost.pull_cable()
    start = time.monotonic()
    assert all(orphan.is_running() for orphan in orphans)
    wait_until(lambda: CONTINUING in log(), log, every=1.0)
    here.say_recovered(start)
    here.wait_for_job("train", "FINISHED", "succeeded")
    assert here.curves() == undisturbed
