"""Whatever `model.kind` says is trained by the one step: as plain PyTorch would, at any stage."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipeline.model.classifier_export import load_classifier
from pipeline.model.draw import Walk, draw_images
from pipeline.model.export import ModelCard, export_bytes, load_model, load_vdm, newest_model
from pipeline.model.generative import build_generative
from pipeline.storage import open_storage

SHAPE = (1, 8, 8)
SMALL = "latent_channels: 2, widths: [8, 8], blocks: 1"
GENERATIVE = ("vae", "hvae", "mhvae", "latents", "joint")


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory, configure: Any) -> Path:
    """A folder with a VDM, whose schedule is not as it began, and a VAE."""
    folder = tmp_path_factory.mktemp("given")
    schedule = "model.schedule={kind: monotone, gamma_0: -7, gamma_1: 3}"
    for name, override in (("vdm", schedule), ("vae", f"model={{kind: vae, {SMALL}}}")):
        config = configure(folder, override).model
        model = build_generative(config, SHAPE, 3, seed=1, levels=256)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1
        card = ModelCard(
            model=config, shape=SHAPE, levels=256, classes=3, class_names=("a", "b", "c"),
            step=1, run=name, mlflow_run_id=None, dataset_digest="",
        )  # fmt: skip
        for file, data in export_bytes(model.state_dict(), card).items():
            (open_storage(str(folder / name)) / file).write_bytes(data)
    return folder


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
    network = "network: {kind: downsampling_unet, width: 8, multipliers: [1], blocks: 1}"
    models = {
        "classifier": f"kind: classifier, of: {given}/vdm, network: {{width: 8}}",
        "vae": f"kind: vae, {SMALL}, drop_label: 0.3",
        "hvae": f"kind: hvae, depth: 3, {SMALL}, free_nats: 2.0",
        "mhvae": f"kind: mhvae, depth: 3, {SMALL}, conditional: false",
        "latents": f"kind: latent_vdm, of: {given}/vae, {network}",
        "joint": f"kind: latent_vdm, vae: {{kind: vae, {SMALL}}}, {network}",
    }
    base = (f"cluster.workers={workers}", f"deepspeed.zero_stage={stage}")
    configs = {
        name: configure(folder, *base, f"model={{{model}}}") for name, model in models.items()
    }
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
    vdm, card = load_vdm(open_storage(str(given / "vdm")))
    network, own = load_classifier(open_storage(f"{folder}/classifier"))
    assert own.schedule_sha256 == card.schedule_sha256
    assert (own.shape, own.classes, own.step) == (SHAPE, 3, 2)
    trained = results["classifier"]["weights"]
    for name, value in vdm.schedule.state_dict().items():
        assert torch.equal(trained[f"schedule.{name}"], value)
    assert not torch.equal(network.state_dict()["out.bias"], torch.zeros(3))


@pytest.mark.parametrize("name", GENERATIVE)
def test_what_draws_images_is_loaded_from_its_run_and_draws_them(runs: Any, name: str) -> None:
    """Its weights are the run's average, its card stands alone, and its samples are images."""
    model, card = load_model(newest_model(open_storage(f"{runs[0]}/{name}")))
    assert (card.shape, card.classes, card.step) == (SHAPE, 3, 2)
    averages = runs[1][name]["reference"]["ema"]["decay_0.9"]
    for parameter, value in model.named_parameters():
        torch.testing.assert_close(value.double(), averages[parameter], rtol=1e-3, atol=2e-4)
    ids = torch.arange(2)
    labels = ids if card.model.conditional else None
    images = draw_images(model, ids, labels, shape=SHAPE, seed=1, walk=Walk(2))
    assert (images.shape, images.dtype) == ((2, *SHAPE), torch.uint8)


def test_a_vae_that_is_given_stays_and_one_that_is_not_is_trained(runs: Any, given: Path) -> None:
    """Of the first nothing is trained or averaged; the run's checkpoint holds it all the same."""
    vae, _ = load_model(open_storage(str(given / "vae")))
    folder, results = runs
    latents, _ = load_model(newest_model(open_storage(f"{folder}/latents")))
    for name, value in vae.state_dict().items():
        assert torch.equal(latents.state_dict()[f"vae.{name}"], value)
    assert not any(name.startswith("vae.") for name in results["latents"]["reference"]["weights"])
    assert any(name.startswith("vae.") for name in results["joint"]["reference"]["weights"])
