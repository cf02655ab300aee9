"""A model leaves its run whole, and comes back only if nothing about it was changed."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors

from pipeline.errors import InputError
from pipeline.model.build import build_vdm, check_model
from pipeline.model.export import CARD, WEIGHTS, ModelCard, export_bytes, load_model
from pipeline.storage import open_storage

SHAPE = (1, 8, 8)


@pytest.fixture
def exported(tiny: Any, tmp_path: Path) -> Callable[..., Path]:
    """exported("model.…=…"): the folder of an exported model."""

    def write(*overrides: str) -> Path:
        config = tiny(*overrides).model
        vdm = build_vdm(config, SHAPE, 3, seed=4, levels=256)
        card = ModelCard(
            model=config,
            shape=SHAPE,
            levels=256,
            classes=3,
            class_names=("a", "b", "c"),
            step=6,
            run="tiny",
            mlflow_run_id=None,
            dataset_digest="0" * 64,
        )
        folder = tmp_path / "-".join(["model", *overrides]).replace("/", "")
        folder.mkdir(exist_ok=True)
        for name, content in export_bytes(vdm.state_dict(), card).items():
            (folder / name).write_bytes(content)
        return folder

    return write


@pytest.mark.parametrize("learned", ["true", "false"])
def test_round_trip(exported: Any, tiny: Any, learned: str) -> None:
    """Weights, schedule (learned or fixed) and card come back as they went."""
    folder = exported(f"model.schedule.learned={learned}", "model.schedule.gamma_0=-9")
    vdm, card = load_model(open_storage(str(folder)))
    original = build_vdm(card.model, SHAPE, 3, seed=4, levels=256).state_dict()
    assert not vdm.training
    assert vdm.state_dict().keys() == original.keys()
    assert all(torch.equal(vdm.state_dict()[name], value) for name, value in original.items())
    assert (card.step, card.dims, card.class_names) == (6, 64, ("a", "b", "c"))


def change(folder: Path, name: str, value: Any) -> None:
    """Rewrite one field of the card."""
    card = json.loads((folder / CARD).read_text())
    (folder / CARD).write_text(json.dumps(card | {name: value}))


def flip_a_bit(folder: Path) -> None:
    """Change one weight a little, as a bad disk does."""
    blob = bytearray((folder / WEIGHTS).read_bytes())
    blob[-3] ^= 1
    (folder / WEIGHTS).write_bytes(blob)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (flip_a_bit, "does not match the digest"),
        (lambda folder: (folder / WEIGHTS).unlink(), "is missing beside its model.json"),
        (lambda folder: (folder / CARD).unlink(), "there is no model.json"),
        (lambda folder: change(folder, "format", 2), "not a model card of this version"),
        (lambda folder: change(folder, "colour", 2), "not a model card of this version"),
        (lambda folder: change(folder, "classes", 7), "does not fit its own card"),
    ],
)
def test_refuses(exported: Any, damage: Any, expected: str) -> None:
    """Damaged or foreign files are named, not loaded."""
    folder = exported()
    damage(folder)
    with pytest.raises(InputError, match=expected):
        load_model(open_storage(str(folder)))


def test_refuses_the_weights_of_another_network(exported: Any) -> None:
    """A valid pair of digest and weights is not enough: they must be this network's."""
    folder, other = exported(), exported("model.network.width=16")
    digest = json.loads((other / CARD).read_text())["weights_sha256"]
    change(folder, "weights_sha256", digest)
    (folder / WEIGHTS).write_bytes((other / WEIGHTS).read_bytes())
    with pytest.raises(InputError, match="does not fit its own card"):
        load_model(open_storage(str(folder)))


def reseal(folder: Path, blob: bytes) -> None:
    """Other weights, with their digest in the card: what a stranger would do."""
    (folder / WEIGHTS).write_bytes(blob)
    change(folder, "weights_sha256", hashlib.sha256(blob).hexdigest())


def network(folder: Path, **values: Any) -> None:
    model = json.loads((folder / CARD).read_text())["model"]
    change(folder, "model", model | {"network": model["network"] | values})


def with_nan(folder: Path) -> None:
    weights = load_tensors((folder / WEIGHTS).read_bytes())
    name = next(iter(weights))
    weights[name].view(-1)[0] = float("nan")
    reseal(folder, save_tensors(weights))


@pytest.mark.parametrize(
    ("harm", "expected"),
    [
        (lambda folder: reseal(folder, (10**15).to_bytes(8, "little") + b"{}"), "no safetensors"),
        (with_nan, "is not finite in"),
        (lambda folder: network(folder, width=2**20), "does not fit its own card"),
        (lambda folder: change(folder, "run", "../../elsewhere"), "not a model card"),
        (lambda folder: change(folder, "levels", 10**12), "not a model card"),
        (lambda folder: change(folder, "shape", [1, -8, 8]), "not a model card"),
    ],
)
def test_refuses_what_was_made_to_do_harm(exported: Any, harm: Any, expected: str) -> None:
    """No memory for terabytes of weights, no folder elsewhere by the name of a run."""
    folder = exported()
    harm(folder)
    with pytest.raises(InputError, match=expected):
        load_model(open_storage(str(folder)))


def test_build_depends_on_the_seed_alone(tiny: Any) -> None:
    """The same seed is the same model, and torch's own generator is left alone."""
    config, state = tiny().model, torch.get_rng_state()
    first, second, third = (build_vdm(config, SHAPE, 3, s, 256).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], third[name]) for name in first)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("override", "shape", "classes", "expected"),
    [
        ("seed=1", (1, 7, 8), 3, r"do not divide by 2"),
        ("seed=1", SHAPE, None, "model.conditional is true but the data set has no labels"),
        ("model.network.width=1", SHAPE, 3, "model.network: .*width"),
    ],
)
def test_a_model_that_cannot_be(
    tiny: Any, override: str, shape: Any, classes: Any, expected: str
) -> None:
    """Refused on the meta device, before a worker is started."""
    with pytest.raises(InputError, match=expected):
        check_model(tiny(override).model, shape, classes, 256)


def test_counts_parameters(tiny: Any) -> None:
    """The count is that of the real model."""
    config = tiny().model
    vdm = build_vdm(config, SHAPE, 3, seed=0, levels=256)
    assert check_model(config, SHAPE, 3, 256) == sum(p.numel() for p in vdm.parameters())
