"""jobs.sample from its command line: refusals before Ray starts, dry runs, finished sets."""

import pytest
import ray

from jobs.cli import run
from jobs.sample import main, make_plan
from pipeline.config.sample import SampleConfig
from pipeline.model.export import WEIGHTS
from pipeline.sampling.sample_set import open_sample_set
from sampling_jobs import draw_directly, modified

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


def test_a_tampered_model_is_one_message_and_exit_code_2_before_ray_starts(sample, toy_model):
    data = bytearray((toy_model / WEIGHTS).read_bytes())
    data[-1] ^= 1
    (toy_model / WEIGHTS).write_bytes(data)
    code, _, error = sample()
    assert code == 2
    assert "does not match the digest" in error
