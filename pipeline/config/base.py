"""The common ground of every configuration model."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, field_validator

RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)]
"""Names folders, so it is a plain file name everywhere."""


class ConfigModel(BaseModel):
    """Frozen, and closed: an unknown key is an error, not a typo that trains for a day."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class JobConfig(ConfigModel):
    """Fields that every job has."""

    root: str = Field(
        ".",
        validate_default=True,
        description="Folder that relative paths start from. A submitted Ray job runs in a "
        "temporary copy of the project, so give an absolute path there.",
    )

    @field_validator("root")
    @classmethod
    def _absolute(cls, root: str) -> str:
        """Workers start in other folders: what "." is, is settled where the job is called."""
        return str(Path(root).expanduser().resolve())

    def path(self, value: str) -> str:
        """Return `value` as a URL or an absolute path (relative ones start from `root`)."""
        if "://" in value:
            return value
        return str((Path(self.root) / Path(value).expanduser()).resolve())
