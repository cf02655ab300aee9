"""Who decays, who does not, and how the rates move."""

import math
from typing import Any

import pytest

from pipeline.model.build import build_vdm
from pipeline.training.optimizer import adamw, learning_rate_scale, parameter_groups


@pytest.mark.parametrize("kind", ["linear", "monotone"])
def test_every_parameter_is_in_one_group(tiny: Any, kind: str) -> None:
    """None forgotten, none twice; γ's parameters, norms and biases are never decayed."""
    config = tiny(f"model.schedule.kind={kind}", "optimizer.schedule_learning_rate=1e-4")
    vdm = build_vdm(config.model, (1, 8, 8), 3, seed=0, levels=256)
    groups = {group["name"]: group for group in parameter_groups(vdm, config.optimizer)}
    ids = [id(p) for group in groups.values() for p in group["params"]]
    assert sorted(ids) == sorted(id(p) for p in vdm.parameters())
    schedule = {id(p) for p in vdm.schedule.parameters()}
    assert {id(p) for p in groups["schedule"]["params"]} == schedule
    assert groups["schedule"]["lr"] == 1e-4
    assert all(p.ndim > 1 for p in groups["kernels"]["params"])
    decays = {name: group["weight_decay"] for name, group in groups.items()}
    assert decays == {"kernels": 0.01, "norms_and_biases": 0.0, "schedule": 0.0}


def test_a_fixed_linear_schedule_has_no_group(tiny: Any) -> None:
    """An empty group would stop DeepSpeed."""
    config = tiny("model.schedule.learned=false")
    vdm = build_vdm(config.model, (1, 8, 8), 3, seed=0, levels=256)
    names = [group["name"] for group in adamw(vdm, config.optimizer).param_groups]
    assert names == ["kernels", "norms_and_biases"]


def test_rate_curve(tiny: Any) -> None:
    """Linear warm-up from 1/W, then constant, or half a cosine that ends at 0 with the run."""
    optimizer = tiny("optimizer.warmup_steps=4").optimizer
    constant = [learning_rate_scale(step, optimizer, 12) for step in range(12)]
    assert constant == pytest.approx([0.25, 0.5, 0.75, *[1.0] * 9])
    cosine = tiny("optimizer.warmup_steps=4", "optimizer.decay=cosine").optimizer
    curve = [learning_rate_scale(step, cosine, 12) for step in range(13)]
    assert curve[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    expected = [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(9)]
    assert curve[4:] == pytest.approx(expected)
    assert learning_rate_scale(0, tiny("optimizer.warmup_steps=0").optimizer, 5) == 1.0
