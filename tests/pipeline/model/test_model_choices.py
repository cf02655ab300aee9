"""What model.network and model.schedule say is built, or refused before anything starts."""

import pytest
from pydantic import ValidationError

from pipeline.config.model import ModelConfig
from pipeline.errors import InputError
from pipeline.model.build import build_vdm, check_model
from vdm_core import DiT

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
