"""The noise of a walk: the same numbers, whether made one draw at a time or many."""

import pytest
import torch

from vdm_core.rng import Purpose, normal
from vdm_core.samplers.noise import StepNoise


@pytest.mark.parametrize("batch", [1, 3, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("each", [False, True])
def test_every_draw_has_the_numbers_of_its_step(batch, dtype, each):
    """In any order of asking, also across the draws that are made together."""
    shape, ids = (3, 32, 32), torch.arange(batch) * 7 + 2**40
    seed = torch.arange(batch) + 5 if each else 5
    noise = StepNoise(seed, ids, shape, dtype)
    assert noise.ahead == {1: 21, 3: 7, 40: 1}[batch]
    for draw in (0, 1, 6, 7, 20, 21, 63, 2):
        expected = normal(seed, Purpose.SAMPLE_STEP, ids, shape, step=draw, dtype=dtype)
        assert torch.equal(noise(draw), expected)
