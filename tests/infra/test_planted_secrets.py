"""Secrets are planted where people put them, and looked for in all that jobs leave behind."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from jobs import cli
from jobs.train import main
from pipeline.config.train import TrainConfig
from pipeline.errors import InputError
from pipeline.object_store import open_bucket
from pipeline.tracking import store_uri
from pipeline.training.preflight import plan_training

ROOT = Path(__file__).resolve().parents[2]
PLANTED = "planted-Xk7vQ2"
IN_THE_ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": f"{PLANTED}-access",
    "AWS_SECRET_ACCESS_KEY": f"{PLANTED}-secret",
    "AWS_SESSION_TOKEN": f"{PLANTED}-session",
    "MLFLOW_TRACKING_USERNAME": f"{PLANTED}-user",
    "MLFLOW_TRACKING_PASSWORD": f"{PLANTED}-password",
    "MLFLOW_TRACKING_TOKEN": f"{PLANTED}-bearer",
    "PGPASSWORD": f"{PLANTED}-database",
    "RAY_AUTH_TOKEN": f"{PLANTED}-ray-0123456789abcdef0123456789abcdef",
}


@pytest.mark.parametrize(
    "uri",
    [
        f"http://me:{PLANTED}@tracking:5000",
        f"http://me:{PLANTED}/x@tracking:5000",
        f"https://{PLANTED}@tracking",
        f"https://tracking/?access_token={PLANTED}",
        f"postgresql://mlflow:{PLANTED}@db/mlflow",
        f"mysql+pymysql://mlflow:{PLANTED}@db/mlflow",
    ],
)
def test_a_tracking_address_with_a_secret_is_refused(uri, tmp_path, monkeypatch):
    """It would be kept in run.json; the refusal does not repeat it, wherever it was given."""
    with pytest.raises(InputError, match="MLFLOW_TRACKING_PASSWORD") as refusal:
        store_uri(uri, tmp_path)
    assert PLANTED not in str(refusal.value)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    with pytest.raises(InputError, match="PGPASSWORD"):
        store_uri(None, tmp_path)


def test_addresses_without_a_secret_are_taken(tmp_path):
    """A user's name is none."""
    for uri in ("https://tracking:5000/team", "postgresql://mlflow@db:5432/mlflow?sslmode=require"):
        assert store_uri(uri, tmp_path) == uri


@pytest.mark.parametrize(
    "url",
    [
        "s3://AKID:{}@bucket/set",
        "s3://AKID:a/{}@bucket/set",
        "gs://AKID:{}@bucket/set",
        "s3://bucket/set?secret_key={}",
    ],
)
def test_a_bucket_address_with_a_secret_is_refused(url):
    """Data addresses are in every record and log."""
    with pytest.raises(InputError, match="do not belong") as refusal:
        open_bucket(url.format(PLANTED))
    assert PLANTED not in str(refusal.value)


def run(*command: object, **environment: str) -> str:
    """A job's whole output; it must succeed."""
    done = subprocess.run(
        [sys.executable, "-m", *map(str, command)],
        cwd=ROOT,
        env=os.environ | IN_THE_ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


def test_a_dry_run_hides_what_was_given(tiny, pack, tmp_path, capsys):
    """The resolved configuration and the messages of a job are often pasted elsewhere."""
    pack(tmp_path / "set")
    tiny()
    arguments = ["--config", str(tmp_path / "tiny.yaml"), "--dry-run"]
    for override in (
        f"tracking.uri=http://me:{PLANTED}@host",
        f"seed=http://me:{PLANTED}@host",
        f"data.train=[{{path: 's3://me:a/{PLANTED}@host/x'}}]",
        f"deepspeed.config={{wandb: {{token: {PLANTED}, team: 'http://me:{PLANTED}@host'}}}}",
    ):
        code = cli.run(
            TrainConfig, main, plan=lambda c: plan_training(c).text(), argv=[*arguments, override]
        )
        shown = capsys.readouterr()
        assert code == 2
        assert "***@host" in shown.err
        assert PLANTED not in shown.out + shown.err


@pytest.fixture
def short_folder() -> Iterator[Path]:
    """A folder with a short path: Ray's sockets lie below it."""
    with tempfile.TemporaryDirectory(prefix="vdm-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_no_secret_is_left_behind(tiny, pack, tmp_path, short_folder):
    """Training and sampling with secrets in the environment, as every cluster has them.

    Searched: what the jobs print, the run's record, checkpoints and journal, the sample set, the
    MLflow database and artifacts, and the logs of Ray.
    """
    pack(tmp_path / "set")
    tiny("steps=2")
    ray = {"RAY_TMPDIR": str(short_folder), "MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/m.db"}
    shown = run("jobs.train", "--config", tmp_path / "tiny.yaml", "steps=2", **ray)
    model, output = tmp_path / "runs/tiny", tmp_path / "samples"
    shown += run(
        "jobs.sample", f"model={model}", f"output={output}", "per_class=1", "steps=2", **ray
    )
    assert PLANTED not in shown
    files = [p for f in (tmp_path, short_folder) for p in f.rglob("*") if p.is_file()]
    names = {path.name for path in files}
    assert {"run.json", "journal.jsonl", "m.db", "config.json", "dataset.json"} <= names
    assert any(path.suffix == ".tar" for path in files)
    assert any("session_" in str(path) and path.suffix == ".log" for path in files)
    leaks = [str(path) for path in files if PLANTED.encode() in path.read_bytes()]
    assert leaks == []
