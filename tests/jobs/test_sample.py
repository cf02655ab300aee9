"""jobs.sample from its command line: refusals before Ray starts, and a real cluster with a kill."""

import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import psutil
import pytest
import ray
from mlflow import MlflowClient

from jobs.cli import run
from jobs.sample import main, make_plan
from pipeline.config.sample import SampleConfig
from pipeline.data.dataset import open_dataset
from pipeline.model.export import WEIGHTS
from pipeline.sampling.draw import Claimed
from pipeline.sampling.finish import finish_set
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.output_folder import PLAN, ROWS, finished_shards
from pipeline.sampling.sample_set import open_sample_set
from pipeline.storage import open_storage
from pipeline.training.run_record import read_run

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def sample(tmp_path, toy_model, capfd):
    """sample("key=value", …): (exit code, stdout, stderr) of jobs.sample."""

    def call(*overrides: object) -> tuple[int, str, str]:
        defaults = [f"model={toy_model}", f"output={tmp_path / 'samples'}", "per_class=2"]
        argv = [*defaults, *map(str, overrides)]
        code = run(SampleConfig, main, plan=lambda c: make_plan(c).text(), argv=argv)
        assert not ray.is_initialized()
        return code, *capfd.readouterr()

    return call


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("classes=[3]", "from 0 to 2"),
        ("guide=/nowhere guidance=classifier", "no classifier.json in /nowhere"),
        ("guide=/nowhere guidance=autoguidance", "there is no model in /nowhere"),
        ("guidance_scale=nan", "guidance_scale"),
        ("gate.against.path=/nowhere", "/nowhere does not exist"),
        ("gate.against.path=/nowhere format=parquet", "it takes format=webdataset"),
        ("model=/nowhere", "there is no model in /nowhere"),
        ("guidence_scale=2", "did you mean guidance_scale"),
    ],
)
def test_a_wrong_request_is_one_message_and_exit_code_2(sample, tmp_path, wrong, message):
    """Before Ray starts, and before anything is written."""
    code, _, error = sample(*wrong.split())
    assert code == 2
    assert error.startswith("error: ")
    assert message in error
    assert not (tmp_path / "samples").exists()


def test_an_unconditional_model_refuses_guidance(sample, tmp_path, export):
    plain = export(tmp_path / "plain", conditional=False)
    code, _, error = sample(f"model={plain}", "guidance_scale=2")
    assert code == 2
    assert "knows no classes" in error


def test_a_foreign_folder_is_refused_and_kept(sample, tmp_path):
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "notes.txt").write_text("mine")
    assert sample("overwrite=true")[0] == 2
    assert (tmp_path / "samples" / "notes.txt").read_text() == "mine"


def test_dry_run_shows_the_plan_and_writes_nothing(sample, tmp_path):
    code, shown, _ = sample("--dry-run", "samples_per_shard=4")
    assert code == 0
    assert "plan: 6 samples in 2 shards" in shown
    assert not (tmp_path / "samples").exists()


def test_dry_run_refuses_the_output_of_another_request(sample, tmp_path, toy_model):
    draw_directly(toy_model, tmp_path / "samples", per_class=2, steps=2)
    code, _, error = sample("--dry-run", "steps=3")
    assert code == 2
    assert "steps: 2 there, 3 now" in error
    assert sample("--dry-run", "steps=3", "overwrite=true")[0] == 0
    assert open_sample_set(str(tmp_path / "samples")).info.provenance["steps"] == 2


def test_a_finished_set_is_left_alone_and_a_changed_setting_refused(sample, tmp_path, toy_model):
    """A second call takes no cluster; a lost picture is drawn again from the shards."""
    output = tmp_path / "samples"
    draw_directly(toy_model, output, per_class=2, steps=2)
    first = {path: modified(path) for path in output.rglob("*.tar")}
    assert sample("steps=2")[0] == 0
    assert {path: modified(path) for path in output.rglob("*.tar")} == first
    assert (output / "grid.png").stat().st_size > 0
    code, _, error = sample("steps=3")
    assert code == 2
    assert "steps: 2 there, 3 now" in error


def draw_directly(model: Path, output: Path, **settings) -> list[str]:
    """The set as one actor in this process makes it; the digests of its shards."""
    config = SampleConfig(model=str(model), output=str(output), **settings)
    (plan,) = make_plan(config).sets
    claimed = Claimed(plan, 0)
    generator = ShardGenerator([claimed.cell()], plan.model.place.url)
    for task in claimed.missing:
        generator(asdict(task))
    finish_set(plan, finished_shards(plan.output, claimed.plan_sha256))
    return [row.sha256 for row in open_dataset(str(output)).rows]


def wait_for_rows(output: Path, count: int, job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(list((output / ROWS).glob("*.parquet"))) < count:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


def modified(file: Path) -> int:
    return file.stat().st_mtime_ns


def actors_of(job: subprocess.Popen[str]) -> list[psutil.Process]:
    """The processes of the pool's actors: children of the raylet of the job's own cluster."""
    port = psutil.Process(job.pid).environ()["RAY_ADDRESS"].rpartition(":")[2]
    known = [(p, p.info["cmdline"] or [""]) for p in psutil.process_iter(["cmdline", "ppid"])]
    raylets = {
        process.pid
        for process, words in known
        if any(re.fullmatch(f"--gcs-address=.*:{port}", word) for word in words)
    }
    return [
        process
        for process, words in known
        if words[0].startswith("ray::MapWorker") and process.info["ppid"] in raylets
    ]


@pytest.mark.slow
def test_killed_and_run_again_with_two_actors_gives_the_same_shards(toy_run, tmp_path, submit_job):
    """Finished shards are kept, a half-written one is redone, no class is short of an image.

    The same bytes as one process without Ray makes; and the job is in MLflow, below its training.
    """
    settings = {"per_class": 200, "steps": 16, "samples_per_shard": 30, "guidance_scale": 2.0}
    output = tmp_path / "samples"
    request = [f"model={toy_run}", f"output={output}", *(f"{k}={v}" for k, v in settings.items())]
    job = submit_job("sample", *request)
    wait_for_rows(output, 2, job)
    os.kill(job.pid, signal.SIGKILL)
    job.communicate()
    time.sleep(1)  # the actors of a dead driver end on their own
    kept = sorted((output / ROWS).glob("*.parquet"))
    assert 2 <= len(kept) < 20
    half = output / f"{kept[0].stem}.tar"
    half.write_bytes(half.read_bytes()[:-512])
    before = {f"{row.stem}.tar": modified(output / f"{row.stem}.tar") for row in kept[1:]}

    again = submit_job("sample", *request, "pool.actors=2")
    log = again.communicate()[0]
    assert again.returncode == 0, log
    assert f"{20 - len(before)} of 20 shards to make" in log
    assert {name: modified(output / name) for name in before} == before
    dataset = open_dataset(str(output))
    assert dataset.label_counts == (200, 200, 200)
    direct = draw_directly(toy_run, tmp_path / "direct", **settings)
    assert [row.sha256 for row in dataset.rows] == direct

    record = read_run(open_storage(str(toy_run.parent)))
    client = MlflowClient(record.tracking_uri)
    runs = client.search_runs(
        [client.get_experiment_by_name("toys").experiment_id],
        f"tags.`mlflow.parentRunId` = '{record.mlflow_run_id}'",
    )
    finished = [run for run in runs if run.info.status == "FINISHED"]
    assert len(finished) == 1
    assert finished[0].data.params["guidance_scale"] == "2.0"
    assert client.list_artifacts(finished[0].info.run_id, "images/samples")


def test_a_tampered_model_is_one_message_and_exit_code_2_before_ray_starts(sample, toy_model):
    data = bytearray((toy_model / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (toy_model / WEIGHTS).write_bytes(data)
    code, _, error = sample()
    assert code == 2
    assert "does not match the digest" in error


@pytest.mark.slow
def test_input_refused_by_an_actor_is_one_message_and_exit_code_2(toy_model, tmp_path, submit_job):
    """Here the folder is given to another request while the actors work."""
    output = tmp_path / "s"
    job = submit_job(
        "sample", f"model={toy_model}", f"output={output}", "per_class=400", "samples_per_shard=30"
    )
    wait_for_rows(output, 1, job)
    (output / PLAN).write_text("{}")
    log = job.communicate()[0]
    assert job.returncode == 2, log
    assert "error: " in log
    assert "another job has taken the folder" in log
    assert "Traceback" not in log


@pytest.mark.slow
def test_three_kills_at_random_moments_leave_each_id_once_and_the_same_bytes(
    toy_model, tmp_path, submit_job
):
    """An actor, the driver, an actor again are killed -9; the digests are an undisturbed run's."""
    settings = {"per_class": 300, "steps": 80, "samples_per_shard": 30, "guidance_scale": 2.0}
    output, moments = tmp_path / "samples", random.Random(time.time_ns())
    request = [f"model={toy_model}", f"output={output}", "pool.actors=2"]
    request += [f"{k}={v}" for k, v in settings.items()]
    job = submit_job("sample", *request)
    for rows, kill_driver in ((2, False), (8, True), (16, False)):
        wait_for_rows(output, rows, job)
        time.sleep(moments.random())
        if kill_driver:
            os.kill(job.pid, signal.SIGKILL)
            job.communicate()
            time.sleep(1)  # the actors of a dead driver end on their own
            job = submit_job("sample", *request)
        else:
            actors = actors_of(job)
            assert actors, "the job ended before it could be disturbed"
            moments.choice(actors).kill()
    log = job.communicate()[0]
    assert job.returncode == 0, log
    table = open_sample_set(str(output)).manifest(["id", "class"])
    assert table["id"].to_pylist() == list(range(900))
    assert Counter(table["class"].to_pylist()) == {0: 300, 1: 300, 2: 300}
    direct = draw_directly(toy_model, tmp_path / "direct", **settings)
    assert [row.sha256 for row in open_dataset(str(output)).rows] == direct
    assert not [name for name in open_storage(str(output)).files() if name.endswith(".tmp")]


@pytest.mark.slow
def test_a_sweep_in_one_job_is_compared_and_continued(toy_model, tmp_path, submit_job):
    """A lost shard of one cell is made again, the other cells are left alone."""
    output = tmp_path / "sweep"
    request = [
        f"model={toy_model}", f"output={output}", "per_class=4", "steps=4", "samples_per_shard=6",
        "sweep.guidance_scales=[1, 4]", "sweep.samplers=[ancestral, ddim]",
    ]  # fmt: skip
    job = submit_job("sample", *request)
    log = job.communicate()[0]
    assert job.returncode == 0, log
    assert "| ddim | 4 | 4 | 8 | 12 |" in log
    names = {"sweep.csv", "sweep.md", "sweep.parquet", "sweep.png", "plan.json"}
    assert {path.name for path in output.iterdir() if path.is_file()} == names
    before = {path: modified(path) for path in output.rglob("*.tar")}
    assert len(before) == 8
    lost = output / "ddim-4-w4" / "shard-000001.tar"
    data = lost.read_bytes()
    lost.unlink()
    (output / "sweep.png").unlink()
    job = submit_job("sample", *request)
    log = job.communicate()[0]
    assert job.returncode == 0, log
    assert "1 of 8 shards to make" in log
    assert lost.read_bytes() == data
    del before[lost]
    assert {path: modified(path) for path in before} == before
    assert (output / "sweep.png").exists()


@pytest.mark.slow
def test_a_set_that_fails_its_gate_is_kept_marked_and_ends_with_exit_code_1(
    toy_run, pack, tmp_path, submit_job
):
    """The gate is no part of what the set is: another one judges the same samples again."""
    output, data = tmp_path / "samples", pack(tmp_path / "data")
    request = [f"model={toy_run}", f"output={output}", "per_class=8", "steps=2"]
    request += [f"gate.against.path={data}", "gate.saturated=null", "gate.constant=null"]
    job = submit_job("sample", *request, "gate.near_duplicates=0", "gate.near=255")
    log = job.communicate()[0]
    assert job.returncode == 1, log
    assert "FAIL near_duplicates" in log
    assert "Traceback" not in log
    assert open_dataset(str(output)).info.gate == "failed"
    before = (output / "manifest.parquet").read_bytes()
    job = submit_job("sample", *request, "gate.near_duplicates=null")
    log = job.communicate()[0]
    assert job.returncode == 0, log
    assert "gate passed" in log
    assert open_dataset(str(output)).info.gate == "passed"
    assert (output / "manifest.parquet").read_bytes() == before
