"""What model.network and model.schedule say is built, or refused before anything starts."""

import pytest
import torch
from pydantic import ValidationError

from pipeline.config.model import ModelConfig
from pipeline.errors import InputError
from pipeline.model.build import build_vdm, check_model
from vdm_core import (
    AdaptiveSchedule,
    CosineSchedule,
    DiT,
    LinearSchedule,
    MonotoneSchedule,
    MultivariateSchedule,
)
from vdm_core.adaptive import at_prior_mean

SMALL_DIT = {"kind": "dit", "width": 16, "depth": 1, "heads": 2, "patch": 2}


def test_a_transformer_is_built_as_configured() -> None:
    config = ModelConfig(network=SMALL_DIT)
    vdm = build_vdm(config, (1, 4, 6), 3, seed=0, levels=256)
    assert isinstance(vdm.network, DiT)
    assert check_model(config, (1, 4, 6), 3, levels=256) == sum(
        parameter.numel() for parameter in vdm.parameters()
    )


def test_images_that_patches_do_not_divide_are_refused_before_training() -> None:
    with pytest.raises(InputError, match="4 x 5 do not divide into patches of 2 x 2"):
        check_model(ModelConfig(network=SMALL_DIT), (1, 4, 5), 3, levels=256)


@pytest.mark.parametrize("objective", ["elbo", "variance"])
def test_the_schedule_s_objective_reaches_the_model(objective: str) -> None:
    schedule = {"kind": "monotone", "objective": objective}
    config = ModelConfig(network=SMALL_DIT, schedule=schedule)
    assert build_vdm(config, (1, 4, 4), 3, seed=0, levels=256).schedule_objective == objective


def test_a_line_has_no_shape_to_train() -> None:
    with pytest.raises(ValidationError, match=r"kind=linear has none: set kind=monotone"):
        ModelConfig(network=SMALL_DIT, schedule={"kind": "linear", "objective": "variance"})


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ({}, LinearSchedule),
        ({"kind": "monotone"}, MonotoneSchedule),
        ({"kind": "cosine", "learned": False}, CosineSchedule),
        ({"kind": "multivariate"}, MultivariateSchedule),
        ({"kind": "adaptive", "latent_dim": 3, "width": 4}, AdaptiveSchedule),
        ({"kind": "adaptive", "learned": False}, AdaptiveSchedule),
    ],
)
def test_a_schedule_is_built_with_its_ends_for_the_images_shape(schedule, expected) -> None:
    """Between -9 and 4 as asked, on real memory and on none, with as many parameters."""
    config = ModelConfig(network=SMALL_DIT, schedule={"gamma_0": -9, "gamma_1": 4, **schedule})
    vdm = build_vdm(config, (1, 4, 6), 3, seed=0, levels=256)
    assert type(vdm.schedule) is expected
    assert config.schedule.per_pixel == vdm.schedule.per_pixel
    ends = at_prior_mean(vdm.schedule, torch.tensor([0.0, 1.0])).gamma
    assert ends.shape == ((2, 1, 4, 6) if vdm.schedule.per_pixel else (2,))
    assert ends[0].tolist() == torch.full_like(ends[0], -9.0).tolist()
    assert ends[1].flatten().tolist() == pytest.approx([4.0] * ends[1].numel())
    learned = any(p is vdm.schedule.ends.end_0 for p in vdm.parameters())
    assert learned == config.schedule.learned
    default = 50 if expected is AdaptiveSchedule else None
    assert vdm.latent_dim == schedule.get("latent_dim", default)
    assert check_model(config, (1, 4, 6), 3, 256) == sum(p.numel() for p in vdm.parameters())


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ({"kind": "cosine"}, "kind=cosine is fixed, ends and shape: set learned=false"),
        ({"kind": "cosine", "learned": False, "objective": "variance"}, "kind=cosine has none"),
        ({"kind": "multivariate", "objective": "variance"}, "set objective=elbo"),
        ({"kind": "adaptive", "objective": "variance"}, "set objective=elbo"),
        ({"kind": "multivariate", "latent_dim": 3}, "latent_dim is for kind=adaptive"),
        ({"width": 3}, "width is for kind=adaptive, not kind=linear"),
        ({"kind": "adaptive", "latent_dim": 0}, "greater than 0"),
    ],
)
def test_a_schedule_that_contradicts_itself_is_refused(schedule, message) -> None:
    with pytest.raises(ValidationError, match=message):
        ModelConfig(network=SMALL_DIT, schedule=schedule)
