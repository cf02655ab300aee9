"""What the page of a run in MLflow says before any metric: who, with which job, on which data."""

import getpass
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.code_version import code_version

_LONGEST_NOTE = 5000  # characters, MLflow's limit for a tag


@dataclass(frozen=True)
class DatasetUse:
    """A dataset that a run reads. `context` is what for: "training" or "evaluation"."""

    name: str
    digest: str
    url: str
    samples: int
    context: str


def origin(job: str, note: str) -> dict[str, str]:
    """The tags behind "Created by", "Source" and "Description" (Markdown) of a run's page."""
    return {
        "mlflow.user": _user(),
        "mlflow.source.name": f"jobs.{job}",
        "mlflow.source.type": "JOB",
        "mlflow.note.content": note[:_LONGEST_NOTE],
        "code_sha256": code_version(),
    }


def _user() -> str:
    """Who runs this, by the environment or the system; a container's user may have no name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def dataset_use(packed: Mapping[str, Any] | None) -> DatasetUse | None:
    """The record again from its fields, as JSON has them."""
    return None if packed is None else DatasetUse(**packed)
