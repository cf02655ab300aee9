"""Training runs that something happens to, and what they leave behind."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import mlflow

from ray_nodes import PATIENCE, wait_until

ROOT = Path(__file__).resolve().parents[2]
CONTINUING = "continuing tiny after step"
STEPS = 120
TWO_WORKERS = [
    "cluster={workers: 2, max_failures: 3, start_timeout_seconds: 10}",
    f"steps={STEPS}",
    "checkpoint={every_steps: 40, keep: 9}",
    "tracking.log_every=1",
    "optimizer.learning_rate=0.002",
]
CURVES = (
    *("train/bits_per_dim", "train/reconstruction", "train/prior", "train/diffusion"),
    *("schedule/gamma_0", "schedule/gamma_1", "train/grad_norm", "train/learning_rate"),
)
Curves = dict[str, list[tuple[int, float]]]


class Reached(Protocol):
    """A cluster, as a run needs it."""

    @property
    def environment(self) -> dict[str, str]:
        """What a driver needs to reach it."""
        ...

    def ray_job(self, *arguments: str) -> str:
        """The output of `ray job …` on it."""
        ...


class Run:
    """A training run of 120 steps, `python -m jobs.train`, in a folder of its own."""

    def __init__(self, folder: Path, cluster: Reached, overrides: tuple[str, ...]) -> None:
        self.folder, self.cluster, self.overrides = folder, cluster, overrides
        self.environment: dict[str, str] = {}
        self.runs = folder / "runs"
        self._drivers: list[subprocess.Popen[bytes]] = []
        self._jobs: list[str] = []

    @property
    def arguments(self) -> list[str]:
        """The job's command line."""
        return ["--config", str(self.folder / "tiny.yaml"), *TWO_WORKERS, *self.overrides]

    def start(self) -> "subprocess.Popen[bytes]":
        """The driver, its output in `log`."""
        environment = os.environ | self.cluster.environment | self.environment
        with (self.folder / "log").open("ab") as log:
            driver = subprocess.Popen(
                [sys.executable, "-m", "jobs.train", *self.arguments],
                cwd=ROOT, env=environment, stdout=log, stderr=log,
            )  # fmt: skip
        self._drivers.append(driver)
        return driver

    def submit(self, job: str) -> None:
        """`ray job submit`, without waiting for its end; what is in `environment` goes along."""
        carried = json.dumps({"env_vars": self.environment})
        driver = ["env", "-C", str(ROOT), sys.executable, "-m", "jobs.train", *self.arguments]
        options = ["--submission-id", job, "--no-wait", "--runtime-env-json", carried]
        self.cluster.ray_job("submit", *options, "--", *driver)
        self._jobs.append(job)

    def finish(self, driver: "subprocess.Popen[bytes]", code: int = 0) -> None:
        """Wait for the driver's end; its exit code is `code`."""
        assert driver.wait(timeout=PATIENCE) == code, self.log[-6000:]

    def end(self) -> None:
        """Whatever of it is left after a test that failed leaves its place to the next test."""
        for driver in self._drivers:
            driver.kill()
            driver.wait()
        for job in self._jobs:
            self.cluster.ray_job("stop", "--no-wait", job)

    def recover(self, driver: "subprocess.Popen[bytes]") -> None:
        """Wait for workers that go on from a checkpoint, say how long that took, and to the end.

        The seconds are those until the state is restored, for the table in docs/faults.md.
        """
        start, lives = time.monotonic(), self.log.count(CONTINUING)
        self.wait_for(lambda: self.log.count(CONTINUING) > lives, driver, every=0.05)
        self.say_recovered(start)
        self.finish(driver)

    def say_recovered(self, since: float) -> None:
        """Print the time from `since` (of the monotonic clock) to now; `pytest -s` shows it."""
        print(f"\n{self.folder.name}: going on after {time.monotonic() - since:.1f} s")

    def wait_for(
        self,
        what: Callable[[], Any],
        driver: "subprocess.Popen[bytes] | None" = None,
        every: float = 0.01,
    ) -> None:
        """Until `what` is true, asked `every` so many seconds, while the driver lives."""
        wait_until(what, lambda: self.log, driver, every)

    def wait_for_job(self, job: str, status: str, told: str) -> None:
        """Until the MLflow run has this status and `ray job status` tells so of the job."""

        def ended() -> bool:
            return self.status() == status and told in self.cluster.ray_job("status", job)

        wait_until(ended, lambda: self.cluster.ray_job("logs", job), every=0.5)
        self._jobs.remove(job)

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

    def status(self, uri: str | None = None) -> str:
        """The status of the one MLflow run."""
        return str(self._tracked(uri)[1].info.status)

    def step(self) -> int:
        """The last step that MLflow has heard of."""
        return max(step for step, _ in self.curves(status="RUNNING")[CURVES[0]])

    def curves(self, uri: str | None = None, status: str = "FINISHED") -> Curves:
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
