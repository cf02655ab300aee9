"""Every family is configured, built, exported and loaded by the same code, or refused in time."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from small_models import CLASSES, FAMILIES, LATENTS, NETWORK, SHAPE, configured, write_model

from pipeline.config.ladder import LatentVDMConfig
from pipeline.errors import InputError
from pipeline.model.export import load_model, load_vdm
from pipeline.model.family import check_family, read_given, resolved
from pipeline.model.generative import build_generative
from pipeline.model.given import read_vae
from pipeline.storage import open_storage


@pytest.mark.parametrize("name", FAMILIES)
def test_the_parameters_are_counted_without_memory(name: str) -> None:
    config = configured(name)
    model = build_generative(config, SHAPE, CLASSES, seed=0, levels=256)
    expected = sum(parameter.numel() for parameter in model.parameters())
    assert check_family(config, SHAPE, CLASSES, 256, None) == expected


@pytest.mark.parametrize("name", FAMILIES)
def test_the_seed_alone_makes_the_weights(name: str) -> None:
    states = [
        build_generative(configured(name), SHAPE, CLASSES, seed, 256).state_dict()
        for seed in (1, 1, 2)
    ]
    first, second, third = states
    assert all(torch.equal(first[key], second[key]) for key in first)
    assert any(not torch.equal(first[key], third[key]) for key in first)


@pytest.mark.parametrize("name", FAMILIES)
def test_an_exported_model_stands_alone(name: str, tmp_path: Path) -> None:
    """A schedule is beside it where it has one, and its README says what it is."""
    folder = Path(write_model(tmp_path, name))
    model, card = load_model(open_storage(str(folder)))
    assert (folder / "schedule.json").exists() == (model.schedule is not None)
    text = (folder / "README.md").read_text()
    words = {"hvae": "A hierarchical var", "mhvae": "A Markovian", "vae": "A variational"}
    assert words.get(name, "A Variational Diffusion Model") in text
    if model.schedule is not None:
        record = json.loads((folder / "schedule.json").read_text())
        assert record["schedule_sha256"] == card.schedule_sha256 != ""


def test_where_a_vdm_is_needed_no_other_will_do(tmp_path: Path) -> None:
    folder = open_storage(write_model(tmp_path, "mhvae"))
    with pytest.raises(InputError, match="holds a mhvae, and a VDM is needed here"):
        load_vdm(folder)


@pytest.mark.parametrize("name", ["vae", "hvae", "latent_vdm"])
@pytest.mark.parametrize(
    ("shape", "classes", "message"),
    [((1, 7, 8), 3, "7 x 8 do not divide by 2"), (SHAPE, None, "the data set has no labels")],
)
def test_images_that_a_family_cannot_take_are_refused(
    name: str, shape: Any, classes: Any, message: str
) -> None:
    with pytest.raises(InputError, match=message):
        check_family(configured(name), shape, classes, 256, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vae": None}, "give `of`, a trained VAE, or `vae`"),
        ({"ema": {"decay": 0.9}}, "ema chooses an average of the VAE in `of`"),
        ({"schedule": {"kind": "adaptive"}}, "adaptive has a latent of its own"),
    ],
)
def test_a_vdm_of_latents_needs_a_vae_and_one_schedule(changes: Any, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        configured("latent_vdm", **changes)


def test_a_given_vae_completes_the_configuration_and_must_not_contradict_it(
    tmp_path: Path, tiny: Any
) -> None:
    """The card of the run has all of it, so that the model is built without the VAE's folder."""
    folder = write_model(tmp_path / "vae", "vae")
    config = tiny(f"model={{kind: latent_vdm, of: {folder}, network: {json.dumps(NETWORK)}}}")
    given = read_given(config)
    whole = resolved(config.model, given)
    assert isinstance(whole, LatentVDMConfig)
    assert whole.vae == configured("vae")
    assert not whole.joint
    other = LatentVDMConfig.model_validate(
        {"kind": "latent_vdm", "of": folder, "network": NETWORK, "vae": {"kind": "vae"}}
    )
    with pytest.raises(InputError, match=r"model.vae is not what model.of"):
        resolved(other, given)
    assert given is not None
    for shape, classes, message in (((1, 16, 16), 3, "shape is"), (SHAPE, 4, "classes is 3")):
        with pytest.raises(InputError, match=message):
            check_family(config.model, shape, classes, 256, given)


def test_only_a_vae_gives_latents(tmp_path: Path) -> None:
    folder = write_model(tmp_path, "hvae", **LATENTS)
    with pytest.raises(InputError, match="is a hvae, and a VAE is needed here"):
        read_vae(open_storage(folder), None)
