"""The whole line on this machine, through the same door as a cluster: `make demo`.

Real images -> shards -> a Ray head with its dashboard on the loopback -> `ray job submit` of
training (two workers), evaluation and sampling -> one page of results. Run it again and it goes on
from what is there. `python -m jobs.demo steps=200` passes overrides on to the training,
`--evaluate draws=2` and `--sample steps=16` to the other jobs.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from jobs import prepare
from jobs.cli import exit_on_sigterm
from pipeline.cluster.local_head import local_head, submit
from pipeline.config.base import JobConfig
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.load import load_config
from pipeline.config.prepare import PrepareConfig
from pipeline.config.sample import SampleConfig
from pipeline.config.train import TrainConfig
from pipeline.data.manifest import MANIFEST
from pipeline.errors import InputError
from pipeline.evaluation.likelihood_report import report_text
from pipeline.evaluation.plan import make_plans
from pipeline.evaluation.run import IMAGES, PICTURE, read_report
from pipeline.logs import set_up_logging
from pipeline.metrics import duration_text
from pipeline.sampling.pictures import GRID
from pipeline.storage import open_storage
from pipeline.tracking import ui_command
from pipeline.training.preflight import plan_training

PROJECT = Path(__file__).resolve().parents[1]
PRESETS = "jobs/presets/fashion_mnist"
C = TypeVar("C", bound=JobConfig)


@dataclass
class Phases:
    """Wall time by phase, in seconds."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Announce a phase and time it."""
        print(f"\n== {name} ==", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - start


@dataclass(frozen=True)
class Job:
    """What is submitted as `python -m jobs.<name>`: a preset and overrides."""

    name: str
    preset: str
    overrides: list[str]

    def load(self, schema: type[C]) -> C:
        """The configuration that the job will have."""
        return load_config(schema, [str(PROJECT / f"{PRESETS}_{self.preset}.yaml")], self.overrides)

    def command(self) -> list[str]:
        """The entrypoint, relative to the project."""
        config = f"{PRESETS}_{self.preset}.yaml"
        return ["python", "-m", f"jobs.{self.name}", "--config", config, *self.overrides]


class JobError(Exception):
    """A submitted job ended with an error; its log has been shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the line; return the exit code.

    0 done, 2 refused input, 1 a job that failed, 130 interrupted.
    """
    arguments = _parser().parse_intermixed_args(argv)
    set_up_logging()
    try:
        _run(arguments)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except JobError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; run it again and it goes on from what is there", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, default=PROJECT, help="where datasets/ and runs/ go")
    parser.add_argument("--port", type=int, help="of the Ray head; default: any free one")
    parser.add_argument("--dashboard-port", type=int, help="default: any free one")
    for job in ("evaluate", "sample"):
        parser.add_argument(
            f"--{job}",
            action="append",
            default=[],
            metavar="key=value",
            help=f"for jobs.{job}; may be repeated",
        )
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="for jobs.train")
    return parser


def _run(arguments: argparse.Namespace) -> None:
    root, phases = arguments.root.resolve(), Phases()
    here = f"root={root}"
    train = Job("train", "cpu", [here, *arguments.overrides])
    config = train.load(TrainConfig)
    run = f"{config.path(config.storage_path)}/{config.name}"
    of_run = [here, f"model={run}"]
    again = [f"output={run}/samples", "overwrite=true"]  # samples of an earlier step are replaced
    jobs = [
        train,
        Job("evaluate", "evaluate", [*of_run, f"output={run}/evaluation", *arguments.evaluate]),
        Job("sample", "sample", [*of_run, *again, *arguments.sample]),
    ]
    evaluation, samples = jobs[1].load(EvaluateConfig), jobs[2].load(SampleConfig)
    with phases.phase("prepare"):
        prepare.main(_prepare_config(root))
    plan = plan_training(config)  # refuse here what the submitted job would refuse later
    cpus = max(os.cpu_count() or 1, config.cluster.worker_counts[-1])
    ports = {"port": arguments.port, "dashboard_port": arguments.dashboard_port}
    with _copy_of_the_code() as code, local_head(cpus, **ports) as head:
        for job in jobs:
            with phases.phase(job.name):
                try:
                    submit(head, job.command(), code)
                except subprocess.CalledProcessError as error:
                    raise JobError(
                        f"job {job.name} failed (exit code {error.returncode}); its log is above"
                    ) from None
    print(_summary(evaluation, samples, plan.tracking_uri, phases))


@contextmanager
def _copy_of_the_code() -> Iterator[Path]:
    """What is submitted: the packages as they are now, so that an edit meanwhile reaches no job."""
    with tempfile.TemporaryDirectory(prefix="vdm-code-") as folder:
        for package in ("vdm_core", "pipeline", "jobs"):
            shutil.copytree(
                PROJECT / package,
                Path(folder, package),
                ignore=shutil.ignore_patterns("__pycache__"),
            )
        yield Path(folder)


def _prepare_config(root: Path) -> PrepareConfig:
    output = f"output={root}/datasets/fashion_mnist"
    return Job("prepare", "prepare", [f"root={PROJECT}", output]).load(PrepareConfig)


def _summary(
    evaluation: EvaluateConfig, samples: SampleConfig, tracking_uri: str, phases: Phases
) -> str:
    result = make_plans(evaluation)[0].output
    report = read_report(result)
    assert report is not None  # the job that wrote it has succeeded
    folder = open_storage(samples.path(samples.output))
    times = "  ".join(f"{name} {duration_text(s)}" for name, s in phases.seconds.items())
    return f"""
== results ==
{report_text(report)}
  per image       {result / IMAGES}
  picture         {result / PICTURE}
samples           {folder}/shard-*.tar, manifest {folder / MANIFEST}
  grid            {folder / GRID}
tracking          {tracking_uri}
  open it         {ui_command(tracking_uri)}
wall time         {times}"""


if __name__ == "__main__":
    exit_on_sigterm()  # so that the head is stopped then, too
    sys.exit(main())
