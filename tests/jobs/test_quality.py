"""jobs.features, jobs.quality and jobs.gate from their command lines."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from jobs import features, gate, quality
from jobs.cli import run
from pipeline.config.quality import GateJobConfig, QualityConfig, TrainFeaturesConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.decode import encode_png
from pipeline.data.manifest import DatasetInfo
from pipeline.data.stream import iterate_once
from pipeline.data.writer import ShardSample, finish_dataset, write_shard
from pipeline.quality.gate import GateReport
from pipeline.quality.gate_plan import CHECKS
from pipeline.quality.measure import QualityReport
from pipeline.storage import open_storage

RNG = np.random.default_rng(0)


def write_set(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    at = open_storage(str(folder))
    samples = [
        ShardSample(f"{n:06d}", encode_png(image), "png", int(label))
        for n, (image, label) in enumerate(zip(images, labels, strict=True))
    ]
    rows = [write_shard(at, f"s{k}.tar", samples[k::2], block_samples=8) for k in range(2)]
    finish_dataset(at, rows, DatasetInfo(folder.name, (1, 8, 8), 2, ("left", "right")))
    return folder


def halves(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Images lit on the left or on the right, by their labels."""
    labels = np.arange(count) % 2
    images = RNG.integers(0, 100, (count, 1, 8, 8), dtype=np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[..., 4 * label : 4 * label + 4] += 120
    return images, labels


@pytest.fixture
def data(tmp_path) -> Path:
    return write_set(tmp_path / "data", *halves(120))


@pytest.fixture
def classifier(tmp_path, data) -> Path:
    """Trained by the job itself."""
    request = [f"data={data}", f"test={data}", f"output={tmp_path}/features", "steps=20"]
    network = ["network.width=8", "network.multipliers=[1,2]", "batch_size=24"]
    assert run(TrainFeaturesConfig, features.main, argv=[*request, *network]) == 0
    return tmp_path / "features"


def test_a_feature_network_is_not_trained_over_another(classifier, data, capfd):
    argv = [f"data={data}", f"output={classifier}"]
    assert run(TrainFeaturesConfig, features.main, argv=argv) == 2
    assert "holds a classifier already" in capfd.readouterr().err


def test_plans_are_shown_before_any_work(classifier, data, capfd):
    of_quality = [f"samples=[{data}]", f"against.path={data}", "features.kind=classifier"]
    of_quality += [f"features.path={classifier}", f"output={data.parent}/quality", "--dry-run"]
    plan = lambda config: quality.make_plan(config).text()  # noqa: E731
    assert run(QualityConfig, quality.main, plan=plan, argv=of_quality) == 0
    assert "plan: classifier Fréchet distance" in capfd.readouterr().out
    of_gate = [f"samples={data}", f"gate.against.path={data}", "--dry-run"]
    plan = lambda config: gate.make_plan(config).text()  # noqa: E731
    assert run(GateJobConfig, gate.main, plan=plan, argv=of_gate) == 0
    assert "memorised ≤ 0.05" in capfd.readouterr().out
    assert not (data / "gate").exists()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("gate.frechet=5", "give both or neither"),
        ("samples=/nowhere", "/nowhere does not exist"),
        ("gate.memorised=2", "less than or equal to 1"),
    ],
)
def test_an_impossible_gate_is_refused(data, capfd, wrong, message):
    argv = [f"samples={data}", f"gate.against.path={data}", wrong]
    assert run(GateJobConfig, gate.main, argv=argv) == 2
    assert message in capfd.readouterr().err


@pytest.fixture
def submit(submit_job) -> Callable[..., tuple[int, str]]:
    """submit("gate", "key=value", …): exit code and log of a job on two CPUs."""

    def done(*arguments: object) -> tuple[int, str]:
        job = submit_job(*arguments)
        log = job.communicate()[0]
        return job.returncode, log

    return done


@pytest.mark.slow
def test_distances_tell_the_data_from_noise(data, classifier, tmp_path, submit):
    """0 from itself, with precision and recall 1; far for noise. Other actors, the same numbers."""
    noise = RNG.integers(0, 256, (90, 1, 8, 8), dtype=np.uint8)
    other = write_set(tmp_path / "noise", noise, np.arange(90) % 2)
    request = [f"samples=[{data}, {other}]", f"against.path={data}", "features.kind=classifier"]
    request += [f"features.path={classifier}", "batch_size=10", "distances.subset=50"]
    reports = []
    for actors in (1, 2):
        output = tmp_path / f"quality-{actors}"
        code, log = submit("quality", *request, f"output={output}", f"pool.actors={actors}")
        assert code == 0, log
        assert (output / quality.FILES.table).read_text() in log
        assert (output / quality.FILES.picture).read_bytes().startswith(b"\x89PNG")
        text = (output / quality.FILES.numbers).read_text()
        reports.append(QualityReport.model_validate_json(text))
    assert reports[0] == reports[1]
    own, far = reports[0].sets
    assert own.frechet == pytest.approx(0, abs=1e-6)
    assert (own.precision, own.recall) == (1, 1)
    assert abs(own.kernel) < 2 * own.kernel_deviation
    assert far.frechet > 0.01
    assert far.kernel > far.kernel_deviation > 0
    assert (own.images, far.images) == (120, 90)


@pytest.mark.slow
def test_the_gate_lets_good_samples_pass_and_says_what_is_wrong_with_bad_ones(
    data, classifier, tmp_path, submit
):
    """Each defect is put in and found; the outcome is on the set, in the exit code and in words."""
    asked = [f"gate.against.path={data}", "gate.features.kind=classifier", "batch_size=10"]
    asked += [f"gate.features.path={classifier}", f"work={tmp_path}/work"]
    good = write_set(tmp_path / "good", *halves(80))
    code, log = submit("gate", f"samples={good}", *asked, "gate.frechet=0.5")
    assert code == 0, log
    assert "gate passed" in log
    assert open_dataset(str(good)).info.gate == "passed"
    assert (good / gate.PICTURE).read_bytes().startswith(b"\x89PNG")

    images, labels = halves(80)
    (known,) = iterate_once(open_dataset(str(data)), batch_size=120)
    images[:12] = known.images[:12].numpy()  # by heart
    images[20] = images[21]  # a copy
    images[30] = images[31]
    images[30, 0, 0, 0] ^= 1  # and nearly one
    images[40], images[41] = 7, np.where(images[41] > 100, 255, 0)  # flat, and black and white
    labels[:30] = 0
    bad = write_set(tmp_path / "bad", images, labels)
    strict = ["gate.frechet=0.0001", "gate.memorised=0.1"]
    code, log = submit("gate", f"samples={bad}", *asked, *strict)
    assert code == 1, log
    assert "gate failed" in log
    assert "Traceback" not in log
    assert open_dataset(str(bad)).info.gate == "failed"
    report = GateReport.model_validate_json((bad / gate.REPORT).read_text())
    checks = {check.name: check for check in report.checks}
    assert tuple(checks) == CHECKS
    assert [name for name, check in checks.items() if check.passed] == []
    assert checks["duplicates"].value == 1 / 80
    assert checks["constant"].value == 1 / 80
    assert checks["saturated"].value == 1 / 80
    assert checks["near_duplicates"].value == 4 / 80
    assert checks["memorised"].value == pytest.approx(12 / 80, abs=2 / 80)
    assert checks["class_imbalance"].value == pytest.approx(15 / 40)
    assert json.loads((bad / "dataset.json").read_text())["gate"] == "failed"
