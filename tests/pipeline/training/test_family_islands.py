"""Under autocast the networks of every family are coarse, and nothing of its bound is."""

import pytest
import torch
from small_models import CLASSES, FAMILIES, SHAPE, configured

from pipeline.model.generative import build_generative
from pipeline.training.islands import IslandWatch
from vdm_core.family import keyed_draws


@pytest.mark.parametrize("name", FAMILIES)
def test_outside_its_networks_a_family_computes_in_float32(name: str) -> None:
    """And inside, somewhere, in bfloat16: what is told to be a network is one."""
    model = build_generative(configured(name), SHAPE, CLASSES, seed=0, levels=256)
    index = torch.zeros(1, dtype=torch.int64)
    draws = keyed_draws(model.draws(SHAPE), 0, index, 1)
    images = torch.full((1, *SHAPE), 100, dtype=torch.uint8)
    for networks, found in ((model.networks, False), ((), True)):
        watch = IslandWatch(networks)
        with torch.no_grad(), watch, torch.autocast("cpu", torch.bfloat16):
            terms = model(images, index, **draws)
        watch.close()
        assert bool(watch.found) == found, watch.found
        assert all(term.dtype == torch.float32 for term in terms.named().values())


@pytest.mark.parametrize("name", FAMILIES)
def test_islands_are_the_schedule_and_the_last_layers(name: str) -> None:
    """Each has parameters, or a schedule that is fixed; no part of the model is there twice."""
    model = build_generative(configured(name), SHAPE, CLASSES, seed=0, levels=256)
    inside = [p for island in model.islands for p in island.parameters()]
    assert inside
    assert len({id(p) for p in inside}) == len(inside)
    assert (model.schedule is not None) == any(i is model.schedule for i in model.islands)
