"""What is said about a model's schedule is the schedule, and its digest tells it from others."""

from typing import Any

import pytest
import torch

from pipeline.model.build import build_vdm
from pipeline.model.schedule_record import schedule_digest, schedule_record
from vdm_core import VDM

SHAPE = (1, 8, 8)


def model(tiny: Any, seed: int, *overrides: str) -> VDM:
    """A VDM that no training has touched."""
    return build_vdm(tiny(*overrides).model, SHAPE, 3, seed, levels=256)


def test_a_linear_curve_is_a_line(tiny: Any) -> None:
    vdm = model(tiny, 1, "model.schedule.gamma_0=-9")
    record = schedule_record("linear", vdm.schedule)
    assert (record.gamma_0, record.gamma_1) == (-9, 5)
    assert record.gamma == pytest.approx([-9 + 14 * t for t in record.t], abs=1e-5)
    assert record.slope == pytest.approx([14] * len(record.t), rel=1e-6)
    assert record.gamma_lowest is None


@pytest.mark.parametrize("kind", ["multivariate", "{kind: adaptive, latent_dim: 3, width: 4}"])
def test_pixels_have_a_mean_between_their_extremes(tiny: Any, kind: str) -> None:
    block = kind if kind.startswith("{") else f"{{kind: {kind}}}"
    vdm, noise = model(tiny, 1, f"model.schedule={block}"), torch.Generator().manual_seed(1)
    with torch.no_grad():  # at initialisation all pixels are alike
        for weights in vdm.schedule.parameters():
            weights += 0.3 * torch.randn(weights.shape, generator=noise)
    record = schedule_record("several", vdm.schedule)
    assert record.gamma_lowest is not None
    assert record.gamma_highest is not None
    lowest, mean, highest = map(
        torch.tensor, (record.gamma_lowest, record.gamma, record.gamma_highest)
    )
    assert (lowest <= mean + 1e-6).all()
    assert (mean <= highest + 1e-6).all()
    assert (highest - lowest)[100] > 0.01
    assert (mean.diff() > 0).all()


def test_the_digest_is_of_the_schedule_alone(tiny: Any) -> None:
    """Another network has the same; another end, another shape and another kind do not."""
    overrides = ["model.schedule={kind: monotone}"]
    state = model(tiny, 1, *overrides).state_dict()
    digest = schedule_digest("monotone", state)
    network = {name: v if name.startswith("schedule.") else v + 1 for name, v in state.items()}
    assert schedule_digest("monotone", dict(reversed(network.items()))) == digest
    others = {schedule_digest("linear", state)}
    for name in (name for name in state if name.startswith("schedule.")):
        others.add(schedule_digest("monotone", state | {name: state[name] + 1e-3}))
    assert len(others) > 3
    assert digest not in others
