"""Runs in MLflow, opened and closed by the driver, which never fails because a server is away."""

import contextlib
import fcntl
import json
import logging
import os
import sqlite3
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pipeline.errors import InputError
from pipeline.redact import one_line, redact_text
from pipeline.tracking.about import DatasetUse
from pipeline.tracking.address import artifact_root, run_page, sqlite_path
from pipeline.tracking.request import RunRequest

_ENVIRONMENT = {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",  # the sender retries; MLflow's 7 take four minutes
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",  # seconds
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # the address may hold a password
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import mlflow  # noqa: E402  MLflow reads its telemetry switch while it is imported
from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor  # noqa: E402
from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor  # noqa: E402
from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor  # noqa: E402
from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor  # noqa: E402

Status = Literal["FINISHED", "FAILED", "KILLED"]

_TOKEN = "vdm.request"
_PARENT = "mlflow.parentRunId"
_KIND = {"mlflow.experimentKind": "custom_model_development"}  # no language model's page
_DIGEST = 36  # characters of a dataset's digest, MLflow's limit
_PARAMS = 100  # parameters per request, MLflow's limit
_log = logging.getLogger(__name__)


def prepare_store(uri: str) -> None:
    """Makes a store ready, once, on the driver, before several processes open it.

    An SQLite file is created with its tables; a server is asked whether it answers, and a
    warning tells if not. Raises InputError for an SQLite file that cannot be used and for
    credentials the server does not accept.
    """
    path = sqlite_path(uri)
    if path is not None:
        _prepare_sqlite(uri, path)
        return
    try:
        mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except mlflow.MlflowException as error:
        if error.get_http_status_code() in (401, 403):
            raise InputError(
                f"MLflow at {redact_text(uri)} does not let us in: {one_line(error)}. Set "
                "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            ) from None
        _log.warning("MLflow at %s does not answer: %s", redact_text(uri), one_line(error))


def _prepare_sqlite(uri: str, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.with_name(path.name + ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with contextlib.closing(sqlite3.connect(path)) as database:
                database.execute("BEGIN IMMEDIATE")  # fails where the file cannot be written
            mlflow.MlflowClient(uri).search_experiments(max_results=1)
    except (OSError, sqlite3.Error, mlflow.MlflowException) as error:
        raise InputError(
            f"tracking store {path} cannot be used: {one_line(error)}. Choose another file, or "
            f"bring one of an older MLflow up to date with `mlflow db upgrade {uri}`"
        ) from error


def open_run(
    uri: str,
    experiment: str,
    run_name: str,
    params: Mapping[str, Any],
    run_id: str | None = None,
    tags: Mapping[str, str] | None = None,
    *,
    parent_run_id: str | None = None,
    data: DatasetUse | None = None,
) -> str:
    """Opens a run and returns its id; the run is then in status RUNNING.

    With `run_id` the run is reopened: new parameters are added, a changed one keeps its first
    value and gets a tag `changed.<name>`. A run that no longer exists is replaced by a new one.
    `params` may be nested; names are joined with ".", secrets are hidden, and the whole of it
    is kept, as it is now, in the artifact `config.json`. `parent_run_id` nests the run under
    another; `data` is shown on its page.

    If the store does not answer, the id of a new run is a *deferred* one: text that carries the
    request, so that whoever uses it later (a `Tracker`, `open_run` again) creates the run.
    Raises InputError if the store answers and refuses.
    """
    request = RunRequest.make(experiment, run_name, params, tags or {}, parent_run_id, data)
    try:
        client = mlflow.MlflowClient(uri)
        opened = (run_id and _reopen(client, uri, run_id, request)) or _create(client, uri, request)
        experiment = client.get_run(opened).info.experiment_id
        _log.info("MLflow run: %s", run_page(uri, experiment, opened))
        return opened
    except mlflow.MlflowException as error:
        if error.get_http_status_code() in (400, 401, 403, 404):
            raise InputError(
                f"MLflow at {redact_text(uri)} refuses run {run_name!r} in experiment "
                f"{experiment!r}: {one_line(error)}. Check the address and the credentials, and "
                "that the experiment is not deleted"
            ) from None
        _log.warning(
            "MLflow at %s does not answer (%s): the run goes on and is recorded there later",
            redact_text(uri),
            one_line(error),
        )
        return run_id or request.as_run_id()


def close_run(uri: str, run_id: str, status: Status) -> bool:
    """Sets the run's final status; if the store does not answer, a warning says so.

    Returns whether it was set.
    """
    try:
        client = mlflow.MlflowClient(uri)
        client.set_terminated(existing_id(client, uri, run_id), status)
    except mlflow.MlflowException as error:
        _log.warning("MLflow: the status %s was not recorded: %s", status, one_line(error))
        return False
    return True


def system_monitors(gpu: bool) -> list[Any]:
    """MLflow's own probes of this machine: CPU, disk, network and, with `gpu`, NVIDIA's GPUs.

    The GPUs' needs the package nvidia-ml-py; where it is missing, a warning says so.
    """
    monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
    if gpu:
        try:
            monitors.append(GPUMonitor())
        except (ImportError, RuntimeError) as error:
            _log.warning("the GPUs of this machine are not monitored: %s", one_line(error))
    return monitors


def _reopen(client: mlflow.MlflowClient, uri: str, run_id: str, request: RunRequest) -> str | None:
    """The run's existing id, or None if the store no longer has the run."""
    try:
        found = existing_id(client, uri, run_id)
        run = client.get_run(found)
    except mlflow.MlflowException as error:
        if error.get_http_status_code() != 404:
            raise
        run = None
    if run is None or run.info.lifecycle_stage == "deleted":
        _log.warning("MLflow has no run %s any more: a new one takes its place", run_id)
        return None
    client.update_run(found, status="RUNNING")
    _describe(client, found, request)
    return found


def _create(client: mlflow.MlflowClient, uri: str, request: RunRequest) -> str:
    tags = {**request.tags, _TOKEN: request.token}
    if request.parent is not None:
        tags[_PARENT] = existing_id(client, uri, request.parent)
    experiment_id = _experiment_id(client, uri, request.experiment)
    run = client.create_run(experiment_id, tags=tags, run_name=request.run_name)
    _describe(client, run.info.run_id, request)
    return str(run.info.run_id)


def existing_id(client: mlflow.MlflowClient, uri: str, run_id: str, *, create: bool = True) -> str:
    """The id of the run in the store; the run of a deferred id is created if need be.

    Raises LookupError where it does not exist and may not be created.
    """
    request = RunRequest.from_run_id(run_id)
    if request is None:
        return run_id
    experiment_id = _experiment_id(client, uri, request.experiment)
    found = client.search_runs([experiment_id], f"tags.`{_TOKEN}` = '{request.token}'")
    if not found and not create:
        raise LookupError(f"the run {request.run_name!r} is not in MLflow yet")
    return str(found[0].info.run_id) if found else _create(client, uri, request)


def _experiment_id(client: mlflow.MlflowClient, uri: str, name: str) -> str:
    if (found := client.get_experiment_by_name(name)) is None:
        try:
            place = artifact_root(uri)
            return str(client.create_experiment(name, artifact_location=place, tags=_KIND))
        except mlflow.MlflowException:  # another process may have been first
            if (found := client.get_experiment_by_name(name)) is None:
                raise
    return str(found.experiment_id)


def _describe(client: mlflow.MlflowClient, run_id: str, request: RunRequest) -> None:
    """Adds parameters the run lacks, tags those that changed, and keeps the whole config."""
    wanted, present = request.short_params(), client.get_run(run_id).data.params
    new = [mlflow.entities.Param(k, v) for k, v in wanted.items() if k not in present]
    for start in range(0, len(new), _PARAMS):
        client.log_batch(run_id, params=new[start : start + _PARAMS])
    tags = dict(request.tags)
    for key, value in wanted.items():
        if present.get(key, value) != value:
            _log.warning("%s changed on resume: %s, now %s", key, present[key], value)
            tags[f"changed.{key}"] = value
    client.log_batch(run_id, tags=[mlflow.entities.RunTag(k, v) for k, v in tags.items()])
    if request.data is not None:
        client.log_inputs(run_id, [_dataset_input(request.data)])
    try:
        client.log_dict(run_id, request.params, "config.json")
    except Exception as error:  # noqa: BLE001  an artifact store's client may raise anything
        _log.warning("MLflow: config.json was not stored: %s", one_line(error))


def _dataset_input(data: DatasetUse) -> Any:
    """What MLflow keeps of a dataset: one of equal name and digest is there once."""
    dataset = mlflow.entities.Dataset(
        name=data.name,
        digest=data.digest[:_DIGEST],
        source_type=data.url.partition("://")[0] if "://" in data.url else "local",
        source=json.dumps({"uri": data.url}),
        profile=json.dumps({"num_rows": data.samples}),
    )
    context = mlflow.entities.InputTag("mlflow.data.context", data.context)
    return mlflow.entities.DatasetInput(dataset, [context])
