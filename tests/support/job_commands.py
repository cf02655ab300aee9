"""Reads a documented command `python -m jobs.X ...` the way the job itself would."""

import re
import shlex
from collections.abc import Mapping
from pathlib import Path

from pipeline.config.base import JobConfig
from pipeline.config.benchmark import BenchmarkConfig
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.export import ExportConfig
from pipeline.config.load import load_config
from pipeline.config.plan import PlanConfig
from pipeline.config.prepare import PrepareConfig
from pipeline.config.quality import GateJobConfig, QualityConfig, TrainFeaturesConfig
from pipeline.config.rungs import LadderConfig
from pipeline.config.sample import SampleConfig
from pipeline.config.train import TrainConfig

SCHEMAS: dict[str, type[JobConfig]] = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "benchmark": BenchmarkConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "sample": SampleConfig,
    "features": TrainFeaturesConfig,
    "quality": QualityConfig,
    "ladder": LadderConfig,
    "gate": GateJobConfig,
    "plan": PlanConfig,
}


def load_command(command: str, folders: Mapping[str, Path | str]) -> tuple[str, JobConfig]:
    """The job's name and its configuration; `folders` says where paths of an image are here.

    Raises:
        InputError: as the job would.
    """
    words = shlex.split(command)
    assert words[:2] == ["python", "-m"], command
    job = words[2].removeprefix("jobs.")
    files, overrides = [], []
    rest = iter(words[3:])
    for word in rest:
        if word == "--config":
            files.append(next(rest))
        elif word != "--dry-run":
            overrides.append(word)
    for there, here in folders.items():
        files = [re.sub(f"^{there}", str(here), file) for file in files]
    return job, load_config(SCHEMAS[job], files, overrides)
