"""An exported model stands alone: whole, loadable, described, and never over another's files."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.errors import InputError
from pipeline.model.average_record import AverageRecord
from pipeline.model.build import build_vdm
from pipeline.model.export import CARD, WEIGHTS, ModelCard, load_model
from pipeline.model.export_folder import README, SCHEDULE, is_exported, write_export
from pipeline.storage import Location, open_storage

SHAPE = (1, 8, 8)


def model(tiny: Any, seed: int = 4) -> tuple[dict[str, torch.Tensor], ModelCard]:
    """Weights that no training has touched, and their card."""
    config = tiny("model.schedule={kind: monotone}").model
    card = ModelCard(
        model=config,
        shape=SHAPE,
        levels=256,
        classes=3,
        class_names=("a", "b", "c"),
        step=6000,
        run="tiny",
        mlflow_run_id=None,
        dataset_digest="0" * 64,
        average=AverageRecord(width=0.07, post_hoc_averages=12, post_hoc_error=0.004),
    )
    return build_vdm(config, SHAPE, 3, seed, levels=256).state_dict(), card


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where to export to; nothing is there."""
    return tmp_path / "model"


def location(folder: Path) -> Location:
    """A folder as storage."""
    return open_storage(str(folder))


def test_an_export_is_the_model(tiny: Any, output: Path) -> None:
    weights, card = model(tiny)
    sealed = write_export(location(output), weights, card)
    vdm, loaded = load_model(location(output))
    assert loaded == sealed
    assert all(torch.equal(value, weights[name]) for name, value in vdm.state_dict().items())
    schedule = json.loads((output / SCHEDULE).read_text())
    assert schedule["schedule_sha256"] == sealed.schedule_sha256
    assert (schedule["gamma_0"], schedule["gamma_1"]) == pytest.approx((-13.3, 5.0), abs=1e-5)
    assert is_exported(location(output), card)


def test_the_readme_says_what_the_records_say(tiny: Any, output: Path) -> None:
    weights, card = model(tiny)
    sealed = write_export(location(output), weights, card)
    text = (output / README).read_text()
    vdm = build_vdm(card.model, SHAPE, 3, 4, levels=256)
    parameters = sum(p.numel() for p in vdm.parameters())
    for said in (
        "# tiny, step 6,000", f"{parameters:,} parameters", "1 x 8 x 8", "3 classes (a, b, c)",
        "relative width 0.07, put together after training from 12 averages", "off by 0.40%",
        "γ(0) = -13.3000", sealed.weights_sha256, sealed.schedule_sha256, "0" * 64,
    ):  # fmt: skip
        assert said in text


def test_without_its_card_a_folder_holds_no_model_and_is_written_again(
    tiny: Any, output: Path
) -> None:
    """What an export leaves that was killed before its last file."""
    weights, card = model(tiny)
    write_export(location(output), weights, card)
    (output / CARD).unlink()
    (output / WEIGHTS).write_bytes(b"half")
    (output / f"{CARD}.0123abcd.tmp").write_bytes(b"{")
    with pytest.raises(InputError, match=r"no model\.json"):
        load_model(location(output))
    assert not is_exported(location(output), card)
    write_export(location(output), weights, card)
    assert load_model(location(output))[1].step == 6000


def test_another_model_in_the_output_is_kept(tiny: Any, output: Path) -> None:
    weights, card = model(tiny)
    write_export(location(output), weights, card)
    for change in (
        {"step": 7}, {"run": "other"}, {"average": AverageRecord(decay=0.9)},
    ):  # fmt: skip
        with pytest.raises(InputError, match="holds another model, tiny after step 6000, power"):
            is_exported(location(output), card.model_copy(update=change))


@pytest.mark.parametrize("name", ["notes.txt", "photos/1.png"])
def test_other_files_in_the_output_are_kept(tiny: Any, output: Path, name: str) -> None:
    (output / name).parent.mkdir(parents=True)
    (output / name).write_text("mine")
    with pytest.raises(InputError, match=f"holds other things .{name.split('/')[0]}"):
        is_exported(location(output), model(tiny)[1])


def test_weights_of_another_model_are_not_written(tiny: Any, output: Path) -> None:
    weights, card = model(tiny)
    del weights[next(iter(weights))]
    with pytest.raises(InputError, match="does not fit its own card"):
        write_export(location(output), weights, card)
    assert not (output).exists()
