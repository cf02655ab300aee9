"""jobs.sample on a real cluster: kills, a sweep, a gate, a folder that is taken away."""

import os
import random
import signal
import time
from collections import Counter

import pytest
from mlflow import MlflowClient

from pipeline.data.dataset import open_dataset
from pipeline.sampling.output_folder import PLAN, ROWS
from pipeline.sampling.sample_set import open_sample_set
from pipeline.storage import open_storage
from pipeline.training.run_record import read_run
from sampling_jobs import actors_of, draw_directly, modified, wait_for_rows

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]


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
