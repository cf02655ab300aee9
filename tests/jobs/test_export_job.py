"""`jobs.export`: from a run's folder to a folder that stands alone."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from stored_run import averaged, store_run, wandering

from jobs.cli import run as run_job
from jobs.export import main, make_plan
from pipeline.config.average import AverageConfig
from pipeline.config.export import ExportConfig
from pipeline.model.average_record import AverageRecord
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, load_model
from pipeline.storage import open_storage

EMA = (AverageConfig(decay=0.9), AverageConfig(width=0.05), AverageConfig(width=0.1))


@pytest.fixture
def trained(tiny: Any, tmp_path: Path) -> list[Any]:
    """A run of 16 steps in `run`; its weights' path."""
    config = tiny().model
    vdm = build_vdm(config, (1, 8, 8), 3, seed=4, levels=256)
    card = ModelCard(
        model=config, shape=(1, 8, 8), levels=256, classes=3, class_names=("a", "b", "c"), step=1,
        run="tiny", mlflow_run_id=None, dataset_digest="0" * 64, average=AverageRecord(decay=0.9),
    )  # fmt: skip
    path = wandering(vdm, 16)
    store_run(open_storage(str(tmp_path / "run")), vdm, card, path, EMA, every=8, ema_every=2)
    return path


def export(folder: Path, *overrides: str) -> int:
    """The exit code of the job."""
    given = [f"root={folder}", "run=run", "output=model", *overrides]
    return run_job(ExportConfig, main, plan=lambda c: make_plan(c).text(), argv=given)


@pytest.mark.parametrize("step", [8, 16])
def test_a_kept_average_is_exported(trained: Any, tmp_path: Path, step: int) -> None:
    """Exactly it, under the name on the card; asked for again, nothing is written."""
    arguments = ("ema.width=0.1", f"step={step}")
    assert export(tmp_path, *arguments) == 0
    model = tmp_path / "model"
    vdm, card = load_model(open_storage(str(model)))
    expected = averaged(trained, EMA[2])[step - 1]
    assert all(torch.equal(p, expected[n].float()) for n, p in vdm.named_parameters())
    assert (card.step, card.average) == (step, AverageRecord(width=0.1))
    files = {path.name: path.stat().st_mtime_ns for path in model.iterdir()}
    assert set(files) == {"model.safetensors", "model.json", "schedule.json", "README.md"}
    assert export(tmp_path, *arguments) == 0
    assert {path.name: path.stat().st_mtime_ns for path in model.iterdir()} == files


def test_a_width_chosen_after_training_is_exported(
    trained: Any, tmp_path: Path, capsys: Any
) -> None:
    """The dry run says how it will be made and writes nothing; the card says it too."""
    assert export(tmp_path, "ema.width=0.07", "--dry-run") == 0
    assert "after step 16, power-function average of relative width 0.07" in capsys.readouterr().out
    assert not (tmp_path / "model").exists()
    assert export(tmp_path, "ema.width=0.07") == 0
    card = json.loads((tmp_path / "model/model.json").read_text())
    assert card["average"]["post_hoc_averages"] == 16
    assert 0 < card["average"]["post_hoc_error"] < 0.03


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("step=9", "no checkpoint_000000009 in"),
        ("run=elsewhere", "has no complete checkpoint; give the folder of a run of jobs.train"),
        ("ema.decay=0.5", "keeps decay_0.9, width_0.05, width_0.1"),
        ("ema={decay: 0.9, width: 0.1}", "give one of decay and width"),
        ("output=run", "holds other things"),
    ],
)
def test_what_cannot_be_exported_is_said(
    trained: Any, tmp_path: Path, capsys: Any, override: str, message: str
) -> None:
    assert export(tmp_path, override) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "model").exists()


def test_another_model_is_not_overwritten(trained: Any, tmp_path: Path, capsys: Any) -> None:
    assert export(tmp_path) == 0
    before = (tmp_path / "model/model.safetensors").read_bytes()
    assert export(tmp_path, "ema.width=0.1") == 2
    assert "holds another model, tiny after step 16, moving average" in capsys.readouterr().err
    assert (tmp_path / "model/model.safetensors").read_bytes() == before
