"""The receiving end of a run in MLflow: points and files, each once, from the tracker's thread."""

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import mlflow

from pipeline.tracking.store import existing_id

SYSTEM = "system/"
_BATCH = 1000  # points per request, MLflow's limit


class Point(NamedTuple):
    """One metric value: `time` is when it was measured, in milliseconds since 1970."""

    key: str
    value: float
    step: int
    time: int


class RunWriter:
    """The receiving end of one run. It knows which points MLflow has and sends none twice.

    A point is (name, step). After a resume the steps since the checkpoint are computed again,
    with the same values; the point that is there stays. A request whose answer was lost may be
    repeated as it is: MLflow's database drops rows that are equal in all columns.
    Construction and methods may block for some seconds and raise what MLflow raises.
    """

    def __init__(self, uri: str, run_id: str, group: str | None = None) -> None:
        """Learn what the run has of the names that begin with `group`, None: of all but SYSTEM.

        The writer of a group does not create a run; it raises LookupError until there is one.
        """
        self._client = mlflow.MlflowClient(uri)
        self.run_id = existing_id(self._client, uri, run_id, create=group is None)
        keys = self._client.get_run(self.run_id).data.metrics
        self._steps = {
            key: {metric.step for metric in self._client.get_metric_history(self.run_id, key)}
            for key in keys
            if (key.startswith(group) if group else not key.startswith(SYSTEM))
        }

    def send(self, points: Iterable[Point]) -> None:
        """Sends the points that are new, 1000 to a request."""
        new: dict[tuple[str, int], Point] = {}
        for point in points:
            if point.step not in self._steps.get(point.key, ()):
                new.setdefault((point.key, point.step), point)
        metrics = [mlflow.entities.Metric(p.key, p.value, p.time, p.step) for p in new.values()]
        for start in range(0, len(metrics), _BATCH):
            self._client.log_batch(self.run_id, metrics=metrics[start : start + _BATCH])
        for key, step in new:
            self._steps.setdefault(key, set()).add(step)

    def send_file(self, path: Path, folder: str) -> None:
        """Stores a local file as artifact `folder/<its name>`; an earlier one is replaced."""
        self._client.log_artifact(self.run_id, str(path), folder or None)
