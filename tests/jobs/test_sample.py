"""jobs.sample from its command line: refusals before Ray starts, and a real cluster with a kill."""

import os
import signal
import subprocess
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import ray
from mlflow import MlflowClient

from jobs.cli import run
from jobs.sample import main, make_plan
from pipeline.config.sample import SampleConfig
from pipeline.data.dataset import open_dataset
from pipeline.model.export import WEIGHTS
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.sample_set import ROWS, finish_samples, open_output
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
        ("guidance_scale=nan", "guidance_scale"),
        ("model=/nowhere", "there is no model in /nowhere"),
        ("guidence_scale=2", "did you mean guidance_scale"),
    ],
)
def test_a_wrong_request_is_one_message_and_exit_code_2(sample, tmp_path, wrong, message):
    """Before Ray starts, and before anything is written."""
    code, _, error = sample(wrong)
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


def test_a_finished_set_is_left_alone_and_a_changed_setting_refused(sample, tmp_path, toy_model):
    """A second call takes no cluster; a lost picture is drawn again from the shards."""
    output = tmp_path / "samples"
    draw_directly(toy_model, output, per_class=2, steps=2)
    first = {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")}
    assert sample("steps=2")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in output.rglob("*.tar")} == first
    assert (output / "grid.png").stat().st_size > 0
    code, _, error = sample("steps=3")
    assert code == 2
    assert "steps: 2 there, 3 now" in error


def draw_directly(model: Path, output: Path, **settings) -> list[str]:
    """The set as one actor in this process makes it; the digests of its shards."""
    config = SampleConfig(model=str(model), output=str(output), **settings)
    plan = make_plan(config)
    open_output(plan.output, plan.identity, overwrite=False)
    generator = ShardGenerator(config, plan.model.url)
    for task in plan.tasks:
        generator(asdict(task))
    finish_samples(plan.output, plan.tasks, plan.identity, plan.card)
    return [row.sha256 for row in open_dataset(str(output)).rows]


def wait_for_rows(output: Path, count: int, job: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while len(list((output / ROWS).glob("*.json"))) < count:
        assert job.poll() is None, job.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.02)


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
    kept = sorted((output / ROWS).glob("*.json"))
    assert 2 <= len(kept) < 20
    half = output / kept[0].stem
    half.write_bytes(half.read_bytes()[:-512])
    before = {row.stem: (output / row.stem).stat().st_mtime_ns for row in kept[1:]}

    again = submit_job("sample", *request, "pool.actors=2")
    log = again.communicate()[0]
    assert again.returncode == 0, log
    assert f"{20 - len(before)} of 20 shards to make" in log
    assert {name: (output / name).stat().st_mtime_ns for name in before} == before
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


@pytest.mark.slow
def test_input_refused_by_an_actor_is_one_message_and_exit_code_2(toy_model, tmp_path, submit_job):
    data = bytearray((toy_model / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (toy_model / WEIGHTS).write_bytes(data)
    job = submit_job("sample", f"model={toy_model}", f"output={tmp_path / 's'}", "per_class=1")
    log = job.communicate()[0]
    assert job.returncode == 2, log
    assert "error: " in log
    assert "does not match the digest" in log
    assert "Traceback" not in log
