"""The team's MLflow server of infra/kubernetes/mlflow.yaml, started for real on the loopback."""

import configparser
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from mlflow import MlflowClient
from pyarrow import fs

from pipeline.errors import InputError
from pipeline.tracking import Tracker, close_run, open_run, prepare_store

LOOPBACK, PASSWORD = "127.0.0.1", "correct-horse-battery"
MANIFEST = Path(__file__).resolve().parents[2] / "infra/kubernetes/mlflow.yaml"
SERVER = next(
    document["spec"]["template"]["spec"]["containers"][0]
    for document in yaml.safe_load_all(MANIFEST.read_text(encoding="utf-8"))
    if document["kind"] == "Deployment"
)
pytestmark = pytest.mark.slow


def free_port() -> int:
    """A port of the loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return probe.getsockname()[1]


def start(command: list[str], log: Path, answers, **environment: str) -> subprocess.Popen:
    """A process of its own group, once `answers()` is true."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            env=os.environ | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    for _ in range(1200):
        if answers():
            return process
        assert process.poll() is None, log.read_text()[-3000:]
        time.sleep(0.1)
    raise TimeoutError(log.read_text()[-3000:])


def stop(process: subprocess.Popen) -> None:
    """End the group."""
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def listens(port: int) -> bool:
    """Whether somebody accepts connections."""
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


@pytest.fixture
def postgres() -> Iterator[str]:
    """A PostgreSQL of its own; the address of its database."""
    if not (shutil.which("initdb") and shutil.which("postgres")):
        pytest.skip("PostgreSQL's initdb and postgres are not on the PATH")
    with tempfile.TemporaryDirectory(prefix="vdm-postgres-") as folder:
        data, port, user = f"{folder}/data", free_port(), []
        if os.geteuid() == 0:  # the server refuses to run as root
            shutil.chown(folder, "nobody")
            user = ["setpriv", "--reuid=nobody", "--clear-groups", "--"]
        make = [*user, "initdb", "-D", data, "-U", "mlflow", "--auth=trust", "--no-sync"]
        subprocess.run(make, check=True, capture_output=True)
        command = [*user, "postgres", "-D", data, "-h", LOOPBACK, "-p", str(port), "-k", ""]
        process = start(command, Path(folder, "log"), lambda: listens(port))
        yield f"postgresql://mlflow@{LOOPBACK}:{port}/postgres"
        stop(process)


@pytest.fixture
def bucket(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An S3 server with a bucket `team`; the environment that points to it."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", LOOPBACK, "-p", str(port)]
    process = start(command, tmp_path / "s3.log", lambda: listens(port))
    endpoint = f"http://{LOOPBACK}:{port}"
    client = fs.S3FileSystem(
        access_key="a", secret_key="b", endpoint_override=endpoint, allow_bucket_creation=True
    )
    client.create_dir("team")
    yield {
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": endpoint,
        "MLFLOW_S3_ENDPOINT_URL": endpoint,
    }
    stop(process)


@pytest.fixture
def server(tmp_path: Path, postgres: str, bucket: dict[str, str]) -> Iterator[str]:
    """The manifest's own command, with the loopback in place of the pod's address."""
    port = free_port()
    logins = configparser.ConfigParser()
    logins["mlflow"] = {
        "default_permission": "READ",
        "database_uri": postgres.replace("/postgres", "/logins"),
        "admin_username": "admin",
        "authorization_function": "mlflow.server.auth:authenticate_request_basic_auth",
    }
    subprocess.run(["psql", postgres, "-qc", "create database logins"], check=True)
    with (tmp_path / "basic_auth.ini").open("w") as file:
        logins.write(file)
    changes = {
        "--host=0.0.0.0": f"--host={LOOPBACK}",
        "--port=5000": f"--port={port}",
        "--workers=2": "--workers=1",
        "$(VDM_BUCKET)": "s3://team",
        "localhost:*": f"{LOOPBACK}:*",
    }
    arguments = SERVER["args"]
    for old, new in changes.items():
        assert any(old in argument for argument in arguments), old
        arguments = [argument.replace(old, new) for argument in arguments]
    secrets = {
        "MLFLOW_BACKEND_STORE_URI": postgres,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "any",
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_AUTH_CONFIG_PATH": str(tmp_path / "basic_auth.ini"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    command = [sys.executable, "-m", *SERVER["command"], *arguments]
    uri = f"http://{LOOPBACK}:{port}"

    def healthy() -> bool:
        try:
            with urllib.request.urlopen(f"{uri}{probe['path']}", timeout=1):
                return True
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return False

    probe = SERVER["readinessProbe"]["httpGet"]
    process = start(command, tmp_path / "mlflow.log", healthy, **secrets, **bucket)
    yield uri
    stop(process)


def test_a_team_tracks_through_the_server(server, tmp_path, bucket, monkeypatch):
    """Wrong logins are refused; with the right one points reach PostgreSQL and files the bucket."""
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "60")  # the machine may be busy
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "admin")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "wrong")
    with pytest.raises(InputError, match="does not let us in"):
        prepare_store(server)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", PASSWORD)
    prepare_store(server)
    run_id = open_run(server, "team", "first", {"seed": 1})
    tracker = Tracker(server, run_id, tmp_path / "journal.jsonl", period=0.05)
    for step in range(50):
        tracker.metrics(step, {"train/total": 3.0 - step / 100})
    tracker.close(timeout=60)
    close_run(server, run_id, "FINISHED")
    client = MlflowClient(server)
    history = client.get_metric_history(run_id, "train/total")
    assert [(m.step, m.value) for m in history] == [(s, 3.0 - s / 100) for s in range(50)]
    assert client.get_run(run_id).info.status == "FINISHED"
    store = fs.S3FileSystem(
        access_key="a", secret_key="b", endpoint_override=bucket["AWS_ENDPOINT_URL"]
    )
    kept = [info.path for info in store.get_file_info(fs.FileSelector("team", recursive=True))]
    assert any(re.fullmatch(rf"team/mlflow/\d+/{run_id}/artifacts/config\.json", p) for p in kept)
    journal = (tmp_path / "journal.jsonl").read_text()
    assert PASSWORD not in journal
