"""What a run is made from, in a form that can wait until the tracking server answers."""

import base64
import json
import uuid
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from pipeline.metrics import flatten
from pipeline.redact import redact, redact_text
from pipeline.tracking.about import DatasetUse, dataset_use

_PREFIX = "deferred:"
_LONGEST_VALUE = 6000
_CUT = " … [cut, see config.json]"


@dataclass(frozen=True)
class RunRequest:
    """Everything needed to create a run, free of secrets.

    `token` is stored as a tag of the run, so a request that is carried out twice, or whose
    answer was lost on the way, still makes one run.
    """

    experiment: str
    run_name: str
    params: dict[str, str]
    tags: dict[str, str] = field(default_factory=dict)
    parent: str | None = None
    data: DatasetUse | None = None
    token: str = field(default_factory=lambda: uuid.uuid4().hex)

    @classmethod
    def make(
        cls,
        experiment: str,
        run_name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        parent: str | None,
        data: DatasetUse | None = None,
    ) -> Self:
        """A request with `params` flattened to dotted names and all secrets hidden."""
        flat = {key: str(value) for key, value in flatten(redact(params)).items()}
        if data is not None:
            data = replace(data, url=redact_text(data.url))
        return cls(experiment, run_name, flat, redact(tags), parent, data)

    def short_params(self) -> dict[str, str]:
        """The parameters with values over MLflow's 6000 characters cut, visibly."""
        room = _LONGEST_VALUE - len(_CUT)
        return {
            key: value if len(value) <= _LONGEST_VALUE else value[:room] + _CUT
            for key, value in self.params.items()
        }

    def as_run_id(self) -> str:
        """The request as text that stands in for a run's id until the run exists."""
        packed = zlib.compress(json.dumps(asdict(self)).encode(), level=9)
        return _PREFIX + base64.urlsafe_b64encode(packed).decode()

    @classmethod
    def from_run_id(cls, run_id: str) -> Self | None:
        """The request inside a deferred id; None for the id of an existing run."""
        if not run_id.startswith(_PREFIX):
            return None
        packed = base64.urlsafe_b64decode(run_id.removeprefix(_PREFIX))
        fields = json.loads(zlib.decompress(packed))
        return cls(**fields | {"data": dataset_use(fields.get("data"))})
