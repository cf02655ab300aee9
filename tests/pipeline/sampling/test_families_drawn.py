"""Every family draws sets by the same job, and is refused what has no meaning for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from small_models import SHAPE, write_model

from pipeline.config.sample import SampleConfig
from pipeline.errors import InputError
from pipeline.model.export import load_model
from pipeline.sampling.plan import load_for, plan_set
from pipeline.storage import open_storage
from vdm_core import ClassifierFree, LatentVDM, sample_latent_vdm, sample_vae


@pytest.mark.parametrize("name", ["vae", "hvae", "mhvae"])
def test_a_set_of_a_vae_is_the_library_s_samples(name: str, draw: Any, tmp_path: Path) -> None:
    """By id, class and seed; what the set says of its making has no walk in it."""
    folder = write_model(tmp_path / "m", name)
    samples = draw("set", model=folder, per_class=3, steps=None, guidance_scale=None, seed=5)
    model, card = load_model(open_storage(folder))
    rows = samples.manifest(["id", "class"]).to_pydict()
    ids, labels = torch.tensor(rows["id"]), torch.tensor(rows["class"])
    expected = sample_vae(model, ids, labels, shape=SHAPE, seed=5)  # type: ignore[arg-type]
    assert np.array_equal(samples.images(range(len(samples))), expected.numpy())
    made = samples.info.provenance
    assert (made["model_kind"], made["nfe"]) == (name, 1)
    assert made["model_sha256"] == card.weights_sha256
    assert not {"sampler", "steps", "guidance", "schedule_sha256"} & made.keys()


def test_a_set_of_a_vdm_of_latents_is_the_library_s_samples(draw: Any, tmp_path: Path) -> None:
    """Guided without a classifier, as a VDM of pixels is."""
    folder = write_model(tmp_path / "m", "latent_vdm")
    samples = draw("set", model=folder, per_class=2, steps=3, guidance_scale=2.0)
    model, card = load_model(open_storage(folder))
    assert isinstance(model, LatentVDM)
    rows = samples.manifest(["id", "class"]).to_pydict()
    ids, labels = torch.tensor(rows["id"]), torch.tensor(rows["class"])
    guided = ClassifierFree(2.0)
    expected = sample_latent_vdm(model, ids, labels, shape=SHAPE, steps=3, guidance=guided)
    assert np.array_equal(samples.images(range(len(samples))), expected.numpy())
    assert samples.info.provenance["nfe"] == 6
    assert samples.info.provenance["schedule_sha256"] == card.schedule_sha256 != ""


@pytest.mark.parametrize(
    "asked",
    [
        {"sampler": "ddim"},
        {"steps": 10},
        {"grid": "gamma"},
        {"guidance_scale": 2.0},
        {"guidance": "autoguidance", "guide": "w"},
        {"sweep": {"steps": (2, 4)}},
    ],
)
def test_a_vae_has_nothing_to_walk_along(asked: dict[str, Any], tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", "vae")
    config = SampleConfig(model=folder, output=str(tmp_path / "out"), per_class=1, **asked)
    with pytest.raises(InputError, match=f"{min(asked)}.*a vae, which draws latents"):
        load_for(config)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"clip": "static"}, "clip=static keeps pixels in their range"),
        ({"guidance": "classifier", "guide": "c"}, "no guide for the latents"),
        ({"guidance": "autoguidance", "guide": "c"}, "no guide for the latents"),
    ],
)
def test_of_latents_neither_pixels_nor_guides_are_asked(
    asked: dict[str, Any], message: str, tmp_path: Path
) -> None:
    folder = write_model(tmp_path / "m", "latent_vdm")
    config = SampleConfig(model=folder, output=str(tmp_path / "out"), per_class=1, **asked)
    with pytest.raises(InputError, match=message):
        load_for(config)


def test_requests_with_scales_are_not_for_a_vae(tmp_path: Path, request_rows: Any) -> None:
    folder = write_model(tmp_path / "m", "hvae")
    requests = request_rows(tmp_path / "r.parquet", guidance_scale=[1.0, 2.0])
    config = SampleConfig(model=folder, output=str(tmp_path / "out"), requests=requests)
    model = load_for(config)
    with pytest.raises(InputError, match="no noise levels to guide at"):
        plan_set(config, model)


@pytest.fixture
def request_rows() -> Any:
    """request_rows(path, column=values): a file of two requests."""

    def write(path: Path, **columns: list[float]) -> str:
        pq.write_table(pa.table({"id": [0, 1], "class": [0, 1], **columns}), path)
        return str(path)

    return write
