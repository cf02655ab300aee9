"""Paths of a job that Ray runs in a temporary copy of the project."""

from pipeline.config.base import JobConfig
from pipeline.errors import InputError

_COPIES = "/runtime_resources/"


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
