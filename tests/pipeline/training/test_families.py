"""Whatever `model.kind` says is trained by the one step: as plain PyTorch would, at any stage."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.model.build import build_vdm
from pipeline.model.classifier_export import load_classifier
from pipeline.model.export import ModelCard, export_bytes, load_model
from pipeline.storage import open_storage

SHAPE = (1, 8, 8)


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, configure: Any) -> Path:
    """The folder of a VDM with a schedule that is not as it began."""
    folder = tmp_path_factory.mktemp("given")
    config = configure(folder, "model.schedule={kind: monotone, gamma_0: -7, gamma_1: 3}").model
    vdm = build_vdm(config, SHAPE, 3, seed=1, levels=256)
    with torch.no_grad():
        for parameter in vdm.schedule.parameters():
            parameter += 0.1
    card = ModelCard(
        model=config, shape=SHAPE, levels=256, classes=3, class_names=("a", "b", "c"),
        step=1, run="given", mlflow_run_id=None, dataset_digest="",
    )  # fmt: skip
    for name, data in export_bytes(vdm.state_dict(), card).items():
        (open_storage(str(folder / "vdm")) / name).write_bytes(data)
    return folder / "vdm"


@pytest.fixture(
    scope="module",
    params=[
        pytest.param((1, 1), id="alone"),
        pytest.param((2, 3), id="two at ZeRO 3", marks=pytest.mark.slow),
    ],
)
def runs(
    request: Any, tmp_path_factory: pytest.TempPathFactory, configure: Any, launch: Any, given: Path
) -> Iterator[tuple[Path, Any]]:
    """What `family_ranks` makes of each family, on so many ranks at this ZeRO stage."""
    workers, stage = request.param
    folder = tmp_path_factory.mktemp("families")
    classifier = f"{{kind: classifier, of: {given}, network: {{width: 8, multipliers: [1, 2]}}}}"
    base = (f"cluster.workers={workers}", f"deepspeed.zero_stage={stage}")
    configs = {"classifier": configure(folder, *base, f"model={classifier}")}
    return folder, launch("family_ranks", workers, folder, **configs)


def test_the_step_is_that_of_plain_pytorch(runs: Any) -> None:
    """Loss and weights of every family, over two steps."""
    for name, run in runs[1].items():
        assert run["losses"] == pytest.approx(run["reference"]["losses"], rel=1e-5), name
        for parameter, expected in run["reference"]["weights"].items():
            torch.testing.assert_close(run["weights"][parameter], expected, rtol=1e-3, atol=2e-4)


def test_a_classifier_is_loaded_from_its_run_with_the_schedule_it_learned_on(
    runs: Any, given: Path
) -> None:
    """The frozen schedule is neither trained nor averaged; its digest is the VDM's."""
    folder, results = runs
    vdm, card = load_model(open_storage(str(given)))
    network, own = load_classifier(open_storage(f"{folder}/classifier"))
    assert own.schedule_sha256 == card.schedule_sha256
    assert (own.shape, own.classes, own.step) == (SHAPE, 3, 2)
    trained = results["classifier"]["weights"]
    for name, value in vdm.schedule.state_dict().items():
        assert torch.equal(trained[f"schedule.{name}"], value)
    assert not torch.equal(network.state_dict()["out.bias"], torch.zeros(3))
