"""Ray nodes on this machine that can be killed, and a cluster of them."""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from pipeline.cluster.local_head import JOINED, LOOPBACK, Head, choose_ports

PATIENCE = 280.0  # seconds; only what hangs takes this long


def wait_until(
    what: Callable[[], Any],
    log: Callable[[], str],
    process: "subprocess.Popen[bytes] | None" = None,
    every: float = 0.1,
) -> None:
    """Until `what` is true, asked `every` so many seconds, while the process lives.

    Raises:
        AssertionError: it ended, or nothing came of it; with the end of its log.
    """
    deadline = time.monotonic() + PATIENCE
    while not what():
        ended = process is not None and process.poll() is not None
        if ended or time.monotonic() > deadline:
            raise AssertionError(f"waited in vain: {log()[-6000:]}")
        time.sleep(every)


def ray_node(
    command: Callable[[], Sequence[str]], environment: Mapping[str, str], log: Path
) -> "subprocess.Popen[bytes]":
    """`ray start … --block`, once it has joined.

    `ray start` itself waits half a minute only, so it is given more than once on a busy machine.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        with log.open("wb") as output:
            process = subprocess.Popen(
                command(), env=environment, stdout=output, stderr=output, start_new_session=True
            )
        while process.poll() is None:
            if JOINED in log.read_text():
                return process
            time.sleep(0.1)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        assert time.monotonic() < deadline, log.read_text()[-6000:]


def ray_job(prefix: Sequence[str], environment: Mapping[str, str], *arguments: str) -> str:
    """The output of `ray job …`, run with `prefix` before it."""
    done = subprocess.run(
        [*prefix, "ray", "job", *arguments],
        env=environment,
        check=False,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-6000:]
    return done.stdout


def training_workers(processes: Sequence[psutil.Process]) -> list[psutil.Process]:
    """Those among the processes that are training workers."""
    return [process for process in processes if _title(process).startswith("ray::RayTrainWorker")]


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


class Node:
    """A raylet with one CPU: one training worker's place."""

    def __init__(self, head: Head, address: str, log: Path) -> None:
        """Start it and wait until it has joined."""

        def command() -> list[str]:
            port = choose_ports(None, None).dashboard_agent
            return [
                "ray", "start", f"--address={address}", "--block", "--num-cpus=1", "--num-gpus=0",
                f"--node-ip-address={LOOPBACK}", f"--dashboard-agent-listen-port={port}",
                "--disable-usage-stats",
            ]  # fmt: skip

        self._process = ray_node(command, head.environment | {"RAY_ADDRESS": address}, log)

    def kill(self) -> None:
        """SIGKILL to the raylet, its agents and every worker on the node, at once."""
        for process in [psutil.Process(self._process.pid), *self._below()]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()

    def workers(self) -> list[psutil.Process]:
        """The training workers on this node."""
        return training_workers(self._below())

    def _below(self) -> list[psutil.Process]:
        return psutil.Process(self._process.pid).children(recursive=True)


class Cluster:
    """A head without CPUs of its own, for drivers, and nodes that can be killed and added."""

    def __init__(self, head: Head, port: int, folder: Path) -> None:
        self._head, self._address, self._folder = head, f"{LOOPBACK}:{port}", folder
        self._added = 0
        self.nodes: list[Node] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a driver on this machine needs to reach the cluster."""
        return self._head.environment | {"RAY_ADDRESS": self._address}

    def ray_job(self, *arguments: str) -> str:
        """The output of `ray job …` on this cluster."""
        return ray_job([], self._head.environment, *arguments)

    def add_node(self) -> None:
        """One more node of one CPU, once it has joined."""
        self._added += 1
        log = self._folder / f"node-{self._added}.log"
        self.nodes.append(Node(self._head, self._address, log))

    def lose_node(self) -> None:
        """A node is gone, and everything on it."""
        self.nodes.pop().kill()

    def workers(self) -> list[psutil.Process]:
        """The training workers on all nodes, once each has one."""
        found: list[psutil.Process] = []

        def all_there() -> bool:
            found[:] = [worker for node in self.nodes for worker in node.workers()]
            return len(found) == len(self.nodes)

        wait_until(all_there, lambda: f"workers: {found}")
        return found

    @contextmanager
    def workers_held(self) -> Iterator[None]:
        """The training workers do nothing for a while, however slow this machine is."""
        workers = self.workers()
        for worker in workers:
            worker.suspend()
        try:
            yield
        finally:
            for worker in workers:
                worker.resume()
