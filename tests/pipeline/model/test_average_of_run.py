"""Any average that a run keeps, and widths that it does not, as a model that can be loaded."""

from pathlib import Path
from typing import Any

import pytest
import torch
from stored_run import Weights, averaged, store_run, wandering

from pipeline.config.average import AverageConfig
from pipeline.errors import InputError
from pipeline.model.average_record import AverageRecord
from pipeline.model.build import build_vdm
from pipeline.model.export import ModelCard, load_card, load_model
from pipeline.model.export_folder import write_export
from pipeline.storage import Location, open_storage
from vdm_core import VDM
from vdm_core.ema_power import power_exponent

SHAPE, STEPS = (1, 8, 8), 40
EMA = (AverageConfig(decay=0.9), AverageConfig(width=0.05), AverageConfig(width=0.1))


@pytest.fixture(scope="module")
def run(configure: Any, tmp_path_factory: Any) -> tuple[Location, list[Weights]]:
    """A run of 40 steps, a checkpoint every 20, a snapshot every 4; and its weights' path."""
    config = configure(tmp_path_factory.mktemp("of"), "model.schedule.learned=false").model
    vdm = build_vdm(config, SHAPE, 3, seed=4, levels=256)
    card = ModelCard(
        model=config, shape=SHAPE, levels=256, classes=3, class_names=("a", "b", "c"), step=1,
        run="tiny", mlflow_run_id=None, dataset_digest="0" * 64, average=AverageRecord(decay=0.9),
    )  # fmt: skip
    folder = open_storage(str(tmp_path_factory.mktemp("run")))
    path = wandering(vdm, STEPS)
    store_run(folder, vdm, card, path, EMA, every=20, ema_every=4)
    return folder, path


def at(run: tuple[Location, list[Weights]], step: int) -> Location:
    """The folder of a checkpoint."""
    return run[0] / f"checkpoint_{step:09d}"


def same(vdm: VDM, expected: Weights) -> bool:
    """Whether the parameters are these, bit for bit."""
    return all(torch.equal(p, expected[n].float()) for n, p in vdm.named_parameters())


@pytest.mark.parametrize("average", EMA, ids=lambda average: average.name)
@pytest.mark.parametrize("step", [20, 40])
def test_each_kept_average_is_a_model(run: Any, average: AverageConfig, step: int) -> None:
    vdm, card = load_model(at(run, step), average)
    assert same(vdm, averaged(run[1], average)[step - 1])
    assert (card.step, card.average.name) == (step, average.name)
    assert vdm.schedule(torch.tensor([0.0])).gamma.item() == pytest.approx(-13.3, abs=1e-5)


def test_the_first_is_the_model_and_decay_0_the_weights(run: Any) -> None:
    assert same(load_model(at(run, 40))[0], averaged(run[1], EMA[0])[-1])
    vdm, card = load_model(at(run, 40), AverageConfig(decay=0.0))
    assert same(vdm, run[1][-1])
    assert card.average.text == "live, no average"


@pytest.mark.parametrize("step", [20, 40])
@pytest.mark.parametrize("width", [0.07, 0.12])
def test_another_width_is_as_near_as_the_card_says(run: Any, step: int, width: float) -> None:
    """Made from the snapshots up to that step, and the checkpoint's own averages."""
    vdm, card = load_model(at(run, step), AverageConfig(width=width))
    assert card.average.post_hoc_averages == 2 * step // 4
    assert card.average.post_hoc_error is not None
    assert 1e-4 < card.average.post_hoc_error < 0.05
    k = power_exponent(width)
    reach = card.average.post_hoc_error * (k + 1) / ((2 * k + 1) * step) ** 0.5
    direct = averaged(run[1], AverageConfig(width=width))[step - 1]
    for name, parameter in vdm.named_parameters():
        path = torch.stack([weights[name] for weights in run[1][:step]])
        bound = reach * (path - path.mean(0)).norm(dim=0)
        assert ((parameter - direct[name]).abs() <= bound + 1e-6).all(), name


def test_cards_tell_averages_apart_without_reading_weights(run: Any) -> None:
    cards = [load_card(at(run, 40), AverageConfig(width=width)) for width in (0.05, 0.07, 0.1)]
    labels = [card.identity["average"] for card in cards]
    assert labels == ["width_0.05", "width_0.07 from 20 averages", "width_0.1"]


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"decay": 0.99}, r"ema.decay=0.99: .* keeps decay_0.9, width_0.05, width_0.1; give one"),
        ({"width": 0.01}, r"ema.width=0.01: from 20 kept averages of widths 0.05, 0.1 the profile"),
    ],
)
def test_what_cannot_be_had_is_refused(run: Any, wanted: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        load_card(at(run, 40), AverageConfig(**wanted))


def test_an_export_is_one_average(run: Any, tmp_path: Path) -> None:
    """It says which; another can be had from its run only."""
    vdm, card = load_model(at(run, 40), AverageConfig(width=0.1))
    place = open_storage(str(tmp_path / "model"))
    write_export(place, vdm.state_dict(), card)
    again, of_export = load_model(place, AverageConfig(width=0.1))
    assert same(again, dict(vdm.named_parameters()))
    assert of_export.schedule_sha256 == card.schedule_sha256
    with pytest.raises(InputError, match=r"decay_0.9 was asked for, .* is an export of width_0.1"):
        load_model(place, AverageConfig(decay=0.9))
