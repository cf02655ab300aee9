"""`jobs.train` as a person meets it: what it refuses, what it plans, and real runs."""

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import mlflow
import pytest
from metric_table import explained, fits

from jobs import train
from jobs.cli import run
from pipeline.config.train import TrainConfig
from pipeline.storage import open_storage
from pipeline.training.phase_timer import PHASES
from pipeline.training.preflight import plan_training
from pipeline.training.run_record import RunRecord, write_run


@pytest.fixture
def submit(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """submit("key=value", …): the exit code of `python -m jobs.train --config tiny.yaml …`."""
    tiny()
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def call(*arguments: str) -> int:
        def plan(config: TrainConfig) -> str:
            return plan_training(config).text()

        argv = ["--config", str(tmp_path / "tiny.yaml"), *arguments]
        return run(TrainConfig, train.main, plan=plan, argv=argv)

    return call


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config", "absent.yaml"], "config file absent.yaml does not exist"),
        (["model.network.widht=3"], "did you mean model.network.width?"),
        (["data.train=absent"], "absent does not exist; check the path, or run jobs.prepare"),
        (["data.train=unlabelled"], "model.conditional is true but the data set has no labels"),
        (["model.network.multipliers=[1,1,1,1,1]"], "images of 8 x 8 do not divide by 16"),
        (["deepspeed.config.gradient_cliping=1"], "did you mean gradient_clipping?"),
        (["storage_path=s3://bucket/runs"], "set tracking.uri or MLFLOW_TRACKING_URI"),
        (["tracking.uri=ftp://x"], "tracking address"),
        (["root=/tmp/ray/runtime_resources/working_dir_files/_ray_pkg_1"], "temporary copy of a"),
    ],
)
@pytest.mark.parametrize("dry", [[], ["--dry-run"]], ids=["run", "dry-run"])
def test_refuses_before_anything_is_written(
    submit: Any,
    pack: Any,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    expected: str,
    dry: list[str],
) -> None:
    """Exit code 2, one message on stderr that names the thing, and no file touched."""
    pack(tmp_path / "set")
    pack(tmp_path / "unlabelled", labelled=False)
    before = sorted(tmp_path.rglob("*"))
    assert submit(*arguments, *dry) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert expected in error
    assert "Traceback" not in error
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_says_what_would_happen(
    submit: Any, pack: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The resolved configuration and the plan, options and overrides in any order; no files."""
    pack(tmp_path / "set")
    before = sorted(tmp_path.rglob("*"))
    assert submit("steps=7", "--dry-run", "seed=9") == 0
    output = capsys.readouterr().out
    assert '"seed": 9' in output
    assert f"plan: tiny starts in {tmp_path}/runs/tiny" in output
    assert "8 images = 1 workers x 1 x 8" in output
    assert sorted(tmp_path.rglob("*")) == before


def test_an_existing_run(
    submit: Any, pack: Any, tiny: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is continued if it is the same, refused under resume=never or with another seed."""
    pack(tmp_path / "set")
    digest = plan_training(tiny()).data.manifest_sha256
    record = RunRecord(
        config=tiny(), dataset_digest=digest, mlflow_run_id="id", tracking_uri="sqlite:////x"
    )
    write_run(open_storage(str(tmp_path / "runs/tiny")), record)
    assert submit("--dry-run", "steps=9") == 0
    assert "plan: tiny continues after step 0" in capsys.readouterr().out
    assert submit("resume=never") == 2
    assert "set resume=auto to continue it" in capsys.readouterr().err
    assert submit("seed=6") == 2
    assert "seed: 5 in the run, 6 now" in capsys.readouterr().err


CLUSTER = [
    "cluster={workers: 2, max_failures: 1}",
    "optimizer.decay=constant",
    "checkpoint.every_steps=4",
    "tracking.log_every=1",
]
METRICS = [
    *("train/bits_per_dim", "train/reconstruction", "train/prior", "train/diffusion"),
    *("schedule/gamma_0", "schedule/gamma_1", "train/grad_norm", "train/learning_rate"),
]
FIT_SECONDS = 240


def start(folder: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """`python -m jobs.train` in a process of its own, which starts a Ray of its own."""
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with (folder / "log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.train", "--config", folder / "tiny.yaml", *overrides],
            cwd=Path(__file__).parents[2],
            env=environment,
            stdout=log,
            stderr=log,
        )


def fit(folder: Path, *overrides: str) -> None:
    """One job from start to end."""
    with start(folder, *overrides) as job:
        assert job.wait(timeout=FIT_SECONDS) == 0, (folder / "log").read_text()[-6000:]


def history(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Every metric of the one MLflow run of a store, as (step, value)."""
    client = mlflow.MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    (found,) = client.search_runs([e.experiment_id for e in client.search_experiments()])
    assert found.info.status == "FINISHED"
    return {
        name: [(m.step, m.value) for m in client.get_metric_history(found.info.run_id, name)]
        for name in found.data.metrics
    }


def artifacts(folder: Path) -> list[str]:
    """Names of all that was stored beside the metrics."""
    files = (folder / "runs/artifacts").rglob("*")
    return sorted(file.name for file in files if file.is_file())


@pytest.fixture(scope="module")
def split(configure: Any, pack: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A run of 12 steps, submitted again with 20; its folder and first MLflow run."""
    folder = tmp_path_factory.mktemp("split")
    configure(folder)
    pack(folder / "set")
    fit(folder, *CLUSTER, "steps=12")
    first = history(folder)
    fit(folder, *CLUSTER, "steps=20")
    return folder, first


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_continues_in_its_mlflow_run(split: Any) -> None:
    """One MLflow run with every step once, all figures, pictures and settings."""
    folder, first = split
    metrics = history(folder)
    for name in (*METRICS, "train/images_per_second", "data/bad_samples"):
        assert [step for step, _ in metrics[name]] == [*range(1, 21)], name
        assert metrics[name][:12] == first[name], name
    stored = artifacts(folder)
    assert {"config.json", "deepspeed.json", "dataset.json"} <= set(stored)
    assert stored.count("00000020.png") == 4  # the ELBO, its profile, the schedule, samples
    assert stored.count("00000020.json") == 2  # the numbers of the profile and the schedule
    assert "MLmodel" in stored
    log = (folder / "log").read_text()
    assert "continuing tiny after step 12" in log
    assert "Reporting training result" not in log
    assert "FutureWarning" not in log


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_metric_is_explained(split: Any) -> None:
    """docs/metrics.md has what a run logs, and nothing that none does."""
    logged, names = set(history(split[0])), explained()
    assert [m for m in logged if not any(fits(name, m) for name in names)] == []
    absent = [name for name in names if not any(fits(name, m) for m in logged)]
    assert absent == [
        "train/kl_<t>", "train/encoder", "train/latent", "train/auxiliary", "train/cross_entropy",
        "train/accuracy", "accuracy/quarter_1", "accuracy/quarter_4", "train/mfu",
        "memory/device_peak_gib",
    ]  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_time_of_both_lives_is_accounted_for(split: Any) -> None:
    """The second one reads the first one's journal: shares of the whole, the pause included."""
    metrics = history(split[0])
    shares = {name: dict(metrics[name]) for name in metrics if name.startswith("goodput/")}
    for step in (12, 13, 20):
        assert sum(share[step] for share in shares.values()) == pytest.approx(1.0)
    assert shares["goodput/stopped"][13] > shares["goodput/stopped"][12]
    assert shares["goodput/lost"][20] == 0.0
    phases = [metrics[f"time/{phase}_seconds"][-1][1] for phase in PHASES]
    assert sum(phases) == pytest.approx(metrics["time/total_seconds"][-1][1])


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_continues_on_other_workers(
    split: Any, configure: Any, pack: Any, tmp_path: Path
) -> None:
    """One worker at ZeRO stage 2, then as many of one or two as there are at stage 3."""
    configure(tmp_path)
    pack(tmp_path / "set")
    fit(tmp_path, *CLUSTER, "steps=12", "cluster.workers=1", "deepspeed.zero_stage=2")
    fit(tmp_path, *CLUSTER, "steps=20", "cluster.workers=[1, 2]", "deepspeed.zero_stage=3")
    moved, other = history(tmp_path), history(split[0])
    for name in METRICS:
        steps, values = zip(*moved[name], strict=True)
        assert steps == tuple(range(1, 21)), name
        assert values == pytest.approx([v for _, v in other[name]], rel=1e-4, abs=1e-6), name


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_belongs_to_one_process(configure: Any, pack: Any, tmp_path: Path) -> None:
    """The same command a second time, while the first runs: refused, with the first one named."""
    configure(tmp_path)
    pack(tmp_path / "set")
    lease, second = tmp_path / "runs/tiny/lease.json", tmp_path / "second"
    second.mkdir()
    (second / "tiny.yaml").write_text((tmp_path / "tiny.yaml").read_text())
    with start(tmp_path, "steps=100000") as job:
        deadline = time.monotonic() + FIT_SECONDS
        while not lease.exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        with start(second, "steps=100000") as refused:
            assert refused.wait(timeout=FIT_SECONDS) == 2
        assert f"is being trained by process {job.pid}" in (second / "log").read_text()
        job.terminate()
        job.wait(timeout=FIT_SECONDS)
    assert not lease.exists()


@pytest.mark.slow
def test_more_workers_than_the_cluster_has(
    submit: Any, pack: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Refused once the cluster is known, before anything is written."""
    pack(tmp_path / "set")
    assert submit("cluster={workers: 8, cpus_per_worker: 1000}") == 2
    assert "8 workers need 8000 CPUs but the cluster has" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
