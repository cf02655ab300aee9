"""Where the tracking store is: addresses that mean the same on every machine of a run."""

import os
import shlex
from pathlib import Path

from pipeline.errors import InputError
from pipeline.redact import holds_secret, redact_text

_SQLITE = "sqlite:///"
_LOCAL_UI = "http://127.0.0.1:5000"  # MLflow's default
_LOGIN = ("MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN", "PGPASSWORD")
_DATABASES = ("postgresql", "mysql", "mssql")


def store_uri(uri: str | None, folder: str | Path) -> str:
    """The address to use on driver and workers alike.

    `uri` if given, else the environment's `MLFLOW_TRACKING_URI`, else an SQLite file
    `mlflow.db` in `folder`. A relative SQLite path is made absolute here, on the driver, because
    Ray's workers run in another directory. Raises InputError for an address of no known kind,
    and for one with a password in it: addresses are kept in records and shown.
    """
    chosen = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if not chosen:
        return f"{_SQLITE}{Path(folder).absolute() / 'mlflow.db'}"
    if chosen.startswith(_SQLITE):
        return f"{_SQLITE}{Path(chosen.removeprefix(_SQLITE)).absolute()}"
    if chosen.startswith(("http://", "https://", "databricks", *_DATABASES)):
        _check_no_secret(chosen)
        return chosen
    raise InputError(
        f"tracking address {redact_text(chosen)!r} is neither an http(s) server nor a database: "
        "use for example http://host:5000 or sqlite:////shared/folder/mlflow.db"
    )


def _check_no_secret(uri: str) -> None:
    if not holds_secret(uri):
        return
    raise InputError(
        f"tracking address {redact_text(uri)!r} has a password in it, and would be kept in the "
        "run's record; give a server's login as MLFLOW_TRACKING_USERNAME and "
        "MLFLOW_TRACKING_PASSWORD, a database's as its client reads it (for PostgreSQL PGPASSWORD "
        "or a password file)"
    )


def gets_login(uri: str) -> bool:
    """Whether a server that a file names may be asked: with a login, only MLFLOW_TRACKING_URI's.

    Clients send the login of the environment to whatever address they are given.
    """
    login = any(os.environ.get(name) for name in _LOGIN)
    return not login or uri == os.environ.get("MLFLOW_TRACKING_URI")


def sqlite_path(uri: str) -> Path | None:
    """The file behind an `sqlite:///` address, None for every other kind.

    Raises InputError if the path is relative.
    """
    if not uri.startswith(_SQLITE):
        return None
    path = Path(uri.removeprefix(_SQLITE).partition("?")[0])
    if not path.is_absolute():
        raise InputError(
            f"tracking address {uri!r} has a relative path, which means another file in each "
            f"working directory: write {_SQLITE}{path.absolute()}"
        )
    return path


def artifact_root(uri: str) -> str | None:
    """Where a local store keeps artifacts: `artifacts/` beside its database.

    None for servers, which have their own place.
    """
    path = sqlite_path(uri)
    return None if path is None else (path.parent / "artifacts").as_uri()


def run_page(uri: str, experiment_id: str, run_id: str) -> str:
    """The page of a run in MLflow's web interface, in its part for trained models.

    A database has no address of its own: the page is then where `ui_command` serves it.
    """
    server = uri.rstrip("/") if uri.startswith(("http://", "https://")) else _LOCAL_UI
    page = f"#/experiments/{experiment_id}/runs/{run_id}?workflowType=machine_learning"
    return f"{redact_text(server)}/{page}"


def ui_command(uri: str) -> str:
    """The shell command, or for a server the address, under which the runs can be looked at."""
    if uri.startswith(("http://", "https://")):
        return redact_text(uri)
    return f"mlflow ui --backend-store-uri {shlex.quote(redact_text(uri))}"
