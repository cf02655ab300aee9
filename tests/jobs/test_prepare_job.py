"""`python -m jobs.prepare` as a person uses it: its words and its exit codes."""

import json
from pathlib import Path

import pytest

from jobs.cli import run
from jobs.prepare import main
from pipeline.config.prepare import PrepareConfig
from pipeline.prepare.splits import plan_prepare

PROJECT = Path(__file__).parents[2]
PRESET = str(PROJECT / "jobs/presets/fashion_mnist_prepare.yaml")


def prepare(*arguments: str) -> int:
    return run(
        PrepareConfig,
        main,
        plan=lambda config: plan_prepare(config).text(),
        argv=["--config", PRESET, f"root={PROJECT}", *arguments],
    )


def test_the_preset_packs_the_shipped_images(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(f"output={tmp_path}/fm") == 0
    said = capsys.readouterr().out
    assert "train: 5,000 images (1, 28, 28) in 4 shards" in said
    assert "test: 1,000 images (1, 28, 28) in 1 shards" in said
    assert "Ankle boot 500" in said
    info = json.loads((tmp_path / "fm/train/dataset.json").read_text())
    assert info["licence"] == "MIT, (c) 2017 Zalando SE"
    assert prepare(f"output={tmp_path}/fm") == 0
    assert "train: finished already, unchanged" in capsys.readouterr().out


def test_a_dry_run_checks_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(f"output={tmp_path}/fm", "--dry-run") == 0
    assert f"test: pack 1,000 images (1, 28, 28) into {tmp_path}/fm/test" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


def test_bad_input_ends_with_code_2_and_leaves_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert prepare(f"output={tmp_path}/fm", "splits.test.labels=data/nowhere.gz") == 2
    assert "nowhere.gz does not exist" in capsys.readouterr().err
    assert prepare(f"output={tmp_path}/fm", "shard_sample=3") == 2
    assert "did you mean shard_samples" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
