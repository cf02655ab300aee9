"""A Ray cluster of several nodes on this machine, runs on it, and what they left behind."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from pipeline.cluster.local_head import JOINED, LOOPBACK, Head, choose_ports, local_head

ROOT = Path(__file__).resolve().parents[2]
CONTINUING = "continuing tiny after step"
PATIENCE = 280.0  # seconds; only a run that hangs takes this long
TWO_WORKERS = [
    "cluster={workers: 2, max_failures: 3, start_timeout_seconds: 10}",
    "steps=120",
    "checkpoint={every_steps: 40, keep: 9}",
    "tracking.log_every=1",
    "optimizer.learning_rate=0.002",
]
CURVES = (
    *("train/bits_per_dim", "train/reconstruction", "train/prior", "train/diffusion"),
    *("schedule/gamma_0", "schedule/gamma_1", "train/grad_norm", "train/learning_rate"),
)


def wait_until(
    what: Callable[[], Any],
    log: Path,
    process: "subprocess.Popen[bytes] | None",
    every: float = 0.1,
) -> None:
    """Until `what` is true, while the process lives; else fail with the end of its log."""
    deadline = time.monotonic() + PATIENCE
    while not what():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            told = log.read_text()[-6000:] if log.exists() else "no log"
            raise AssertionError(f"waited in vain: {told}")
        time.sleep(every)


class Node:
    """A raylet with one CPU: one training worker's place."""

    def __init__(self, head: Head, address: str, log: Path) -> None:
        """Start it; `ray start` waits half a minute, so more than once on a busy machine."""
        self._command = [
            "ray", "start", f"--address={address}", "--block", "--num-cpus=1", "--num-gpus=0",
            f"--node-ip-address={LOOPBACK}", "--disable-usage-stats",
        ]  # fmt: skip
        self._environment = head.environment | {"RAY_ADDRESS": address}
        deadline = time.monotonic() + PATIENCE
        while not self._joins(log, deadline):
            pass

    def _joins(self, log: Path, deadline: float) -> bool:
        port = choose_ports(None, None).dashboard_agent
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*self._command, f"--dashboard-agent-listen-port={port}"],
                env=self._environment,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        while JOINED not in log.read_text():
            assert time.monotonic() < deadline, log.read_text()[-6000:]
            if self._process.poll() is not None:
                with suppress(ProcessLookupError):
                    os.killpg(self._process.pid, signal.SIGKILL)
                return False
            time.sleep(0.1)
        return True

    def kill(self) -> None:
        """SIGKILL to the raylet, its agents and every worker on the node, at once."""
        everything = [psutil.Process(self._process.pid)]
        everything += everything[0].children(recursive=True)
        for process in everything:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def workers(self) -> list[psutil.Process]:
        """The training workers on this node."""
        below = psutil.Process(self._process.pid).children(recursive=True)
        return [process for process in below if _title(process).startswith("ray::RayTrainWorker")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Cluster:
    """A head without CPUs of its own, for drivers, and nodes that can be killed and added."""

    def __init__(self, head: Head, port: int, folder: Path) -> None:
        self.head, self.address, self._folder = head, f"{LOOPBACK}:{port}", folder
        self._added = 0
        self.nodes: list[Node] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a driver on this machine needs to reach the cluster."""
        return self.head.environment | {"RAY_ADDRESS": self.address}

    def add_node(self) -> None:
        """One more node of one CPU, once it has joined."""
        self._added += 1
        self.nodes.append(Node(self.head, self.address, self._folder / f"node-{self._added}.log"))

    def workers(self) -> list[psutil.Process]:
        """The training workers on all nodes, once each has one."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            found = [worker for node in self.nodes for worker in node.workers()]
            if len(found) == len(self.nodes):
                return found
            time.sleep(0.05)
        raise TimeoutError("the workers did not start")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes of one CPU each beside the head."""
    port = choose_ports(None, None).head
    os.environ.setdefault("RAY_agent_register_timeout_ms", "100000")  # a busy machine
    with local_head(0, port=port) as head:
        here = Cluster(head, port, tmp_path_factory.mktemp("cluster"))
        here.add_node()
        here.add_node()
        try:
            yield here
        finally:
            for node in here.nodes:
                node.kill()


class Run:
    """A training run in a folder of its own, `python -m jobs.train` on the cluster."""

    def __init__(self, folder: Path, cluster: Cluster, overrides: tuple[str, ...]) -> None:
        self.folder, self.cluster, self.overrides = folder, cluster, overrides
        self.environment: dict[str, str] = {}
        self.runs = folder / "runs"

    def start(self) -> "subprocess.Popen[bytes]":
        """The driver, its output in `log`."""
        environment = os.environ | self.cluster.environment | self.environment
        with (self.folder / "log").open("ab") as log:
            return subprocess.Popen(
                [sys.executable, "-m", "jobs.train", *self.arguments],
                cwd=ROOT, env=environment, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def arguments(self) -> list[str]:
        """The job's command line."""
        return ["--config", str(self.folder / "tiny.yaml"), *TWO_WORKERS, *self.overrides]

    def finish(self, driver: "subprocess.Popen[bytes]", code: int = 0) -> None:
        """Wait for the driver's end; its exit code is `code`."""
        try:
            assert driver.wait(timeout=PATIENCE) == code, self.log[-6000:]
        finally:
            driver.kill()

    def recover(self, driver: "subprocess.Popen[bytes]") -> None:
        """Wait for workers that go on from a checkpoint and for the end; print how long they took.

        The seconds are those until the state is restored, for the table in docs/faults.md.
        """
        start, lives = time.monotonic(), self.log.count(CONTINUING)
        self.wait_for(lambda: self.log.count(CONTINUING) > lives, driver, every=0.05)
        print(f"\n{self.folder.name}: going on after {time.monotonic() - start:.1f} s")
        self.finish(driver)

    def wait_for(
        self,
        what: Callable[[], Any],
        driver: "subprocess.Popen[bytes] | None" = None,
        every: float = 0.01,
    ) -> None:
        """Until `what` is true, asked `every` so many seconds, while the driver lives."""
        wait_until(what, self.folder / "log", driver, every)

    def committed(self, step: int) -> bool:
        """Whether the checkpoint of `step` is complete."""
        return step in self.checkpoints()

    def checkpoints(self) -> list[int]:
        """The steps of the complete checkpoints."""
        commits = (self.runs / "tiny").glob("checkpoint_*/checkpoint.json")
        return sorted(int(commit.parent.name.rpartition("_")[2]) for commit in commits)

    @property
    def log(self) -> str:
        """All that the drivers printed."""
        log = self.folder / "log"
        return log.read_text() if log.exists() else ""

    @property
    def uri(self) -> str:
        """The store of the run."""
        return f"sqlite:///{self.folder}/runs/mlflow.db"

    def curves(self, uri: str | None = None, status: str = "FINISHED") -> dict[str, Any]:
        """(step, value) of each curve of the one MLflow run, in the order they were recorded."""
        client, found = self._tracked(uri)
        assert found.info.status == status
        return {
            name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
            for name in CURVES
        }

    def _tracked(self, uri: str | None) -> tuple[mlflow.MlflowClient, Any]:
        client = mlflow.MlflowClient(uri or self.uri)
        (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
        return client, found


@pytest.fixture
def run(cluster: Cluster, configure: Any, pack: Any, tmp_path: Path) -> Callable[..., Run]:
    """run("key=value", …): a run of 120 steps on two workers, checkpoints at 40, 80 and 120."""

    def make(*overrides: str, broken: tuple[int, ...] = ()) -> Run:
        configure(tmp_path)
        pack(tmp_path / "set", broken=broken)
        return Run(tmp_path, cluster, overrides)

    return make


@pytest.fixture(scope="session")
def undisturbed(
    cluster: Cluster, configure: Any, pack: Any, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The curves of such a run that nothing happened to: each step once."""
    folder = tmp_path_factory.mktemp("undisturbed")
    configure(folder)
    pack(folder / "set")
    reference = Run(folder, cluster, ())
    reference.finish(reference.start())
    curves = reference.curves()
    for name in CURVES:
        assert [step for step, _ in curves[name]] == [*range(1, 121)], name
    return curves
