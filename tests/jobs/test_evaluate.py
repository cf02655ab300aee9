"""jobs.evaluate from its command line: refusals before Ray starts, and a real cluster."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import ray
from mlflow import MlflowClient

from jobs.cli import run
from jobs.evaluate import COMPARISON, main, plan_text
from pipeline.cluster.kept_ranges import Range
from pipeline.config.evaluate import EvaluateConfig
from pipeline.data.manifest import DatasetInfo
from pipeline.data.writer import ShardSample, finish_dataset, write_shard
from pipeline.evaluation.evaluate import ImageTerms, LikelihoodEvaluator
from pipeline.evaluation.plan import make_plans
from pipeline.evaluation.run import (
    IMAGES,
    PICTURE,
    PROFILE,
    PROFILE_PICTURE,
    REPORT,
    UNFINISHED,
    evaluate,
    kept_ranges,
    make_report,
)
from pipeline.storage import open_storage
from pipeline.training.run_record import read_run

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy")


@pytest.fixture
def data(tmp_path, pack) -> str:
    return pack(tmp_path / "set")


@pytest.fixture
def call(toy_model, data, capfd):
    """call("key=value", …): (exit code, stdout, stderr) of jobs.evaluate."""

    def evaluation(*overrides: object) -> tuple[int, str, str]:
        argv = [f"model={toy_model}", f"data={data}", *map(str, overrides)]
        code = run(EvaluateConfig, main, plan=plan_text, argv=argv)
        assert not ray.is_initialized()
        return code, *capfd.readouterr()

    return evaluation


def directly(model: Path, data: str, **settings) -> list[ImageTerms]:
    """The images' terms as this process computes them, without Ray."""
    config = EvaluateConfig(model=str(model), data=data, **settings)
    evaluator = LikelihoodEvaluator(config, str(model))
    total = evaluator.dataset.info.samples
    return evaluator.images(Range(0, total))


@pytest.fixture
def submit(submit_job) -> Callable[..., str]:
    """submit("evaluate", "key=value", …): the log of a job that ends well on two CPUs."""

    def done(*arguments: object) -> str:
        job = submit_job(*arguments)
        log = job.communicate()[0]
        assert job.returncode == 0, log
        return log

    return done


def other_set(folder: Path, **changes) -> Path:
    """A set that says other things of itself than the model's."""
    described = {"split": "train", "shape": (1, 8, 8), "classes": 3, "class_names": ("a", "b", "c")}
    at = open_storage(str(folder))
    rows = [write_shard(at, "s.tar", [ShardSample(k, b"x", "png", 0) for k in ("a", "b")])]
    finish_dataset(at, rows, DatasetInfo(**(described | changes)))
    return folder


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": (3, 8, 8)}, "trained on (1, 8, 8)"),
        ({"levels": 2}, "of 2 levels"),
        ({"classes": 4, "class_names": tuple("abcd")}, "has 4 classes, the model 3"),
        ({"classes": None, "class_names": ()}, "has None classes, the model 3"),
    ],
)
def test_data_that_is_not_the_models_is_refused(call, tmp_path, changes, message):
    """One message and exit code 2, before Ray starts."""
    code, _, error = call(f"data={other_set(tmp_path / 'other', **changes)}")
    assert code == 2
    assert error.startswith("error: ")
    assert message in error


def test_several_models_need_a_place_for_their_comparison(call, toy_model):
    code, _, error = call(f"model=[{toy_model}, {toy_model}]")
    assert code == 2
    assert "set output" in error


def test_a_baseline_of_another_shape_is_refused(call, tmp_path):
    other = other_set(tmp_path / "other", shape=(1, 4, 4))
    code, _, error = call(f"baseline_data={other}")
    assert code == 2
    assert str(other) in error


@pytest.mark.parametrize(
    ("wrong", "message"),
    [("model=/nowhere", "no model in /nowhere"), ("data=/nowhere", "/nowhere does not exist")],
)
def test_missing_things_are_refused(call, wrong, message):
    code, _, error = call(wrong)
    assert code == 2
    assert message in error


def test_dry_run_shows_the_plan_and_writes_nothing(call, toy_model):
    code, shown, _ = call("--dry-run", "steps=1000", "draws=3")
    assert code == 0
    assert "24 train images (1, 8, 8), draws per image: 3, T = 1000" in shown
    assert not (toy_model / "evaluation").exists()


def test_further_figures_are_planned_or_refused(call):
    """Before Ray starts: all of them with their T, or what the model cannot be asked."""
    code, shown, _ = call("--dry-run", "bounds.compute=[discrete, ode]", "bounds.steps=7")
    assert code == 0
    assert "discrete: bound at T = 7, all steps" in shown
    assert "ode: NLL of the probability-flow ODE" in shown
    code, _, error = call("bounds.compute=[importance]")
    assert code == 2
    assert "set bounds.steps" in error


def test_the_same_evaluation_is_shown_and_not_computed_again(call, toy_model, data):
    """Equal weights, data and settings; another pool or batch size makes no difference."""
    results = directly(toy_model, data)
    (plan,) = make_plans(EvaluateConfig(model=str(toy_model), data=data))
    report = make_report(plan, results)
    (plan.output / REPORT).write_bytes(report.model_dump_json().encode())
    code, shown, _ = call("batch_size=3", "pool.actors=2")
    assert code == 0
    assert f"{report.bound.bits_per_dim:.4f} ± {report.bound.standard_error:.4f}" in shown
    profile = {"bounds": {"compute": ["profile"]}}
    for changed in ({"seed": 1}, {"draws": 5}, {"steps": 9}, {"baseline_data": data}, profile):
        (other,) = make_plans(EvaluateConfig(model=str(toy_model), data=data, **changed))
        assert other.request != report.request


def test_an_output_that_cannot_be_written_is_refused_before_the_work(toy_model, data, tmp_path):
    (tmp_path / "file").write_text("not a folder")
    code = run(
        EvaluateConfig,
        lambda config: evaluate(make_plans(config)[0], None) and None,
        argv=[f"model={toy_model}", f"data={data}", f"output={tmp_path / 'file'}"],
    )
    assert code == 2
    assert not ray.is_initialized()


@pytest.mark.slow
def test_two_actors_give_what_one_process_gives(toy_run, data, tmp_path, submit_job):
    """Every image once; report, table and MLflow agree with the images."""
    output = tmp_path / "evaluation"
    request = [f"model={toy_run}", f"data={data}", f"baseline_data={data}", f"output={output}"]
    figures = ["bounds.compute=[discrete, importance, profile]", "bounds.steps=3"]
    job = submit_job("evaluate", *request, *figures, "pool.actors=2", "batch_size=5")
    log = job.communicate()[0]
    assert job.returncode == 0, log
    further = {"compute": ("discrete", "importance", "profile"), "steps": 3}
    expected = directly(toy_run, data, bounds=further)
    table = pq.read_table(output / IMAGES).to_pydict()
    assert table["index"] == list(range(24))
    assert table["key"] == [image.key for image in expected]
    for term in ("reconstruction", "prior", "diffusion", "discrete", "importance"):
        values = [image.nats(term) for image in expected]
        assert table[term] == pytest.approx(values, rel=1e-5, abs=1e-5)

    report = json.loads((output / REPORT).read_text())
    bound, discrete = report["bound"], report["further"]["discrete"]
    totals = np.sum([table[t] for t in ("reconstruction", "prior", "diffusion")], axis=0)
    bits = totals / (64 * np.log(2))
    assert bound["bits_per_dim"] == pytest.approx(bits.mean(), rel=1e-9)
    assert bound["standard_error"] == pytest.approx(bits.std(ddof=1) / np.sqrt(24), rel=1e-9)
    assert f"{bound['bits_per_dim']:.4f} ± {bound['standard_error']:.4f}" in log
    mean = np.mean(table["discrete"]) / (64 * np.log(2))
    assert discrete["bits_per_dim"] == pytest.approx(mean, rel=1e-9)
    assert f"{discrete['bits_per_dim']:.4f} ± {discrete['standard_error']:.4f}" in log
    errors = np.array([image.profile for image in expected])
    profile = pq.read_table(output / PROFILE).to_pydict()
    assert profile["squared_error"] == pytest.approx(errors.mean(0), rel=1e-4)
    for picture in (PICTURE, PROFILE_PICTURE):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")
    check_tracked(toy_run, report)


def check_tracked(checkpoint: Path, report: dict) -> None:
    """One finished run below the training run has the report's figures."""
    record = read_run(open_storage(str(checkpoint.parent)))
    client = MlflowClient(record.tracking_uri)
    (tracked,) = client.search_runs(
        [client.get_experiment_by_name("toys").experiment_id],
        f"tags.`mlflow.parentRunId` = '{record.mlflow_run_id}'",
    )
    assert tracked.info.status == "FINISHED"
    assert tracked.data.params["time"] == "continuous time"
    bound = report["bound"]
    shown = {name: bound[name] for name in ("bits_per_dim", "standard_error")} | bound["terms"]
    figures = {f"train/{name}": value for name, value in shown.items()}
    for name, further in report["further"].items():
        for part in ("bits_per_dim", "standard_error"):
            figures[f"train/{name}_{part}"] = further[part]
    figures["train/schedule_variance_gain"] = report["variance"]["gain"]
    assert tracked.data.metrics == figures


@pytest.mark.slow
def test_one_and_two_workers_and_a_continued_job_agree_to_the_bit(toy_run, data, tmp_path, submit):
    """Ranges are cut by batch size alone; those that are done are not done again."""
    request = [
        f"model={toy_run}",
        f"data={data}",
        "bounds.compute=[continuous, profile]",
        "batch_size=5",
    ]
    alone, both = tmp_path / "alone", tmp_path / "both"
    submit("evaluate", *request, f"output={alone}", "pool.actors=1")
    log = submit("evaluate", *request, f"output={both}", "pool.actors=2")
    assert (both / IMAGES).read_bytes() == (alone / IMAGES).read_bytes()
    assert (both / PROFILE).read_bytes() == (alone / PROFILE).read_bytes()
    assert "linear/learned" in log

    config = EvaluateConfig(
        model=str(toy_run), data=data, batch_size=5, output=str(tmp_path / "third"),
        bounds={"compute": ("continuous", "profile")},
    )  # fmt: skip
    (plan,) = make_plans(config)
    kept = kept_ranges(plan)
    worker = LikelihoodEvaluator(config, str(toy_run))
    for places in kept.ranges()[1:4]:  # as a job leaves them that was killed
        kept.keep(places, worker(places))
    log = submit("evaluate", *request, f"output={tmp_path / 'third'}")
    assert "evaluated: 15 of 24 images are done" in log
    assert (tmp_path / "third" / IMAGES).read_bytes() == (alone / IMAGES).read_bytes()
    assert not (tmp_path / "third" / UNFINISHED).exists()


@pytest.mark.slow
def test_several_models_are_compared_image_by_image(toy_run, export, data, tmp_path, submit):
    """The table has the paired differences of the images' own figures; asked again, it is shown."""
    other = export(tmp_path / "other", schedule={"kind": "linear", "gamma_1": 4.0})
    output = tmp_path / "compared"
    request = [f"model=[{toy_run}, {other}]", f"data={data}", f"output={output}"]
    log = submit("evaluate", *request)
    folders = [output / f"0{k}-toy-step-1-decay_0.0" for k in (1, 2)]
    bits = [pq.read_table(f / IMAGES)["total_bits_per_dim"].to_numpy() for f in folders]
    differences = bits[1] - bits[0]
    error = differences.std(ddof=1) / 24**0.5
    assert f"{differences.mean():+.4f} ± {error:.4f}" in log
    assert (output / COMPARISON.table).read_text() in log
    assert (output / COMPARISON.picture).read_bytes().startswith(b"\x89PNG")
    assert (output / COMPARISON.table).read_text() in submit("evaluate", *request)


@pytest.mark.slow
def test_a_bad_record_is_one_message_that_names_it(toy_model, pack, tmp_path, submit_job):
    broken = pack(tmp_path / "broken", broken=(4,))
    job = submit_job("evaluate", f"model={toy_model}", f"data={broken}")
    log = job.communicate()[0]
    assert job.returncode == 2, log
    assert "error: s0.tar/000004" in log
    assert "Traceback" not in log
    assert not (toy_model / "evaluation" / REPORT).exists()
