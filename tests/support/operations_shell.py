"""A terminal in a fresh copy of the project that gives the commands of docs/operations.

Only what a placeholder stands for is filled in (addresses, ports, JOB, HEAD), and words are added
at the end of a command so that the nodes stay on the loopback and the runs are small.
"""

import os
import re
import shlex
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from operations_pages import ROOT, Block, missing

from pipeline.cluster.local_head import LOOPBACK, choose_ports
from ray_nodes import PATIENCE, wait_until

ELSEWHERE = {
    r"^kubectl |\$\(kubectl ": "Kubernetes",
    r"^docker ": "Docker and a registry",
    r"^ray (up|down|dashboard) ": "AWS",
    r"s3://your-bucket": "a bucket",
    r" postgresql://": "the PostgreSQL of infra/kubernetes/mlflow.yaml",
}
"""What is not run here, and what it would need; such commands are parsed and no more."""
SMALL_RUN = [
    *("model.network.width=8", "model.network.multipliers=[1,2]", "data.batch_size=8"),
    *("tracking.log_every=10", "tracking.picture_every=1000000", "optimizer.warmup_steps=2"),
    "cluster.grace_seconds=100",
]
FOREVER, SOME = 10**9, 20  # steps
UNTIL_INTERRUPTED = ("ray start", "ray job logs --follow", "mlflow server")
NEEDED = ("ray start --head", "mlflow server")  # the others leave when they have said enough
PROJECT = ("vdm_core", "pipeline", "jobs", "data", ".gitignore", ".rayignore")


def elsewhere(command: str) -> str | None:
    """The pattern of `ELSEWHERE` that a command agrees with."""
    return next((found for found in ELSEWHERE if re.search(found, command)), None)


class Shell:
    """Gives a page's commands; keeps what is exported and what goes on in other terminals."""

    def __init__(self, folder: Path) -> None:
        """Copy the project into `folder`/project; the home folder beside it is empty."""
        self.project, self._folder = folder / "project", folder
        (folder / "home").mkdir()
        self.project.mkdir()
        for name in PROJECT:
            subprocess.run(["cp", "-r", str(ROOT / name), str(self.project)], check=True)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("RAY_A")
        } | {
            "HOME": str(folder / "home"),
            "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
            "PYTHONPATH": "",  # drivers and workers have their own copy
            "RAY_raylet_start_wait_time_s": "120",  # a busy machine
        }
        self._ports, self.mlflow_port = choose_ports(None, None), choose_ports(None, None).head
        self._job, self._given = "", 0
        self.terminals: list[subprocess.Popen[bytes]] = []
        self.ran: list[tuple[str, str]] = []

    @property
    def jobs_server(self) -> str:
        """Its address."""
        return f"http://{LOOPBACK}:{self._ports.dashboard}"

    def follow(self, block: Block) -> None:
        """Give the commands of a block that can be given here; see what the page says one sees.

        Raises:
            AssertionError: a command fails, or a line of the page is not seen.
        """
        here = [command for command in block.commands if elsewhere(command) is None]
        seen = tuple(self._filled_in(line) for line in block.seen)
        said = "".join(self._give(block.page, self._filled_in(line), seen) for line in here)
        self.ran += [(block.page, command) for command in here]
        absent = missing(seen, said) if here else []
        assert not absent, f"{block.page}.md promises {absent} after:\n{said[-6000:]}"
        if job := re.search(r"Job '(\S+)' submitted", said):
            self._job = job[1]

    def interrupt(self) -> None:
        """Press Ctrl-C in the newest terminal that is left.

        Raises:
            subprocess.TimeoutExpired: its program goes on all the same.
        """
        os.killpg(self.terminals[-1].pid, signal.SIGINT)
        self.terminals[-1].wait(timeout=60)
        self.terminals.pop()

    def end(self) -> None:
        """Kill whatever is left."""
        for process in self.terminals:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _filled_in(self, line: str) -> str:
        places = {
            "6379": self._ports.head,
            "8265": self._ports.dashboard,
            "5000": self.mlflow_port,
            "HEAD": LOOPBACK,
            "JOB": self._job,
        }
        return re.sub(rf"\b({'|'.join(places)})\b", lambda found: str(places[found[1]]), line)

    def _give(self, page: str, command: str, seen: tuple[str, ...]) -> str:
        """The output of a command that succeeds, or as much of it as has what is to be `seen`."""
        if command.startswith("export "):
            self.environment |= dict(word.split("=", 1) for word in shlex.split(command)[1:])
            return ""
        command = f"{command} {shlex.join(self._added(page, command))}"
        environment = self.environment
        if command.startswith(("ray start", "python")) and "RAY_AUTH_MODE" in environment:
            environment = environment | {"RAY_ADDRESS": f"{LOOPBACK}:{self._ports.head}"}
        self._given += 1
        log = self._folder / f"{self._given}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                ["bash", "-c", command], cwd=self.project, env=environment,
                stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip
        self.terminals.append(process)
        if command.startswith(UNTIL_INTERRUPTED):
            wait_until(lambda: not missing(seen, log.read_text()), log.read_text, process)
            if not command.startswith(NEEDED):
                self.interrupt()
        else:
            code = process.wait(timeout=PATIENCE)
            assert code == 0, f"{page}.md: {command}\n{log.read_text()[-6000:]}"
            self.terminals.remove(process)
        return log.read_text()

    def _added(self, page: str, command: str) -> list[str]:
        """What keeps runs small and nodes to themselves."""
        if "jobs.train" in command:
            watched = page == "starting" and command.startswith("ray job submit")
            return [*SMALL_RUN, f"steps={FOREVER if watched else self._newest_step() + SOME}"]
        if command.startswith("ray start --head"):
            agent, client = self._ports.dashboard_agent, self._ports.client_server
            ports = [f"--dashboard-agent-listen-port={agent}", f"--ray-client-server-port={client}"]
            node = [f"--node-ip-address={LOOPBACK}", "--num-cpus=2", "--num-gpus=0"]
            return [*node, *ports, f"--temp-dir={self._folder}/ray"]
        if command.startswith("ray start"):
            agent = choose_ports(None, None).dashboard_agent
            node = [f"--node-ip-address={LOOPBACK}", "--num-cpus=0", "--num-gpus=0"]
            return [*node, f"--dashboard-agent-listen-port={agent}"]
        if command.startswith("mlflow server"):
            return [f"--port={self.mlflow_port}", "--workers=1"]
        return []

    def _newest_step(self) -> int:
        commits = self.project.glob("runs/fashion_mnist_cpu/checkpoint_*/checkpoint.json")
        return max((int(commit.parent.name.rpartition("_")[2]) for commit in commits), default=0)
