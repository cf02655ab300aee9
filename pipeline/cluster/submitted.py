"""What is special about a submitted job: its working folder, and how Ray stops it."""

import logging
import os

from pipeline.config.base import JobConfig
from pipeline.errors import InputError

_COPIES = "/runtime_resources/"
_PATIENCE = "RAY_JOB_STOP_WAIT_TIME_S"
_DEFAULT_PATIENCE = "3"  # Ray's
log = logging.getLogger(__name__)


def check_submitted_paths(config: JobConfig, *fields: str) -> None:
    """Refuse the named fields of `config` that lie in a submitted job's copy, which Ray deletes.

    Raises:
        InputError: names the field, where it leads and the remedy.
    """
    for field in fields:
        found = getattr(config, field)
        for value in found if isinstance(found, tuple) else (found,):
            if value is not None and _COPIES in config.path(value):
                raise InputError(
                    f"{field}={value} is in the temporary copy of a submitted job "
                    f"({config.path(value)}), which Ray deletes; give an absolute "
                    "root=/shared/folder, or URLs"
                )


def warn_of_short_stop(grace_seconds: float) -> None:
    """Say so if `ray job stop` would kill this job before its grace period is over.

    Ray takes the time from the environment that its head was started in, which this job inherits.
    """
    patience = os.environ.get(_PATIENCE, _DEFAULT_PATIENCE)
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ and float(patience) < grace_seconds:
        log.warning(
            "`ray job stop` will kill this job after %s s, not after cluster.grace_seconds=%g: "
            "start the Ray head with %s=%g or more",
            patience,
            grace_seconds,
            _PATIENCE,
            grace_seconds + 10,
        )
