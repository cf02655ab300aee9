import math

import pytest
import torch

from vdm_core.networks.conditioning import Conditioning, embed_gamma


def test_embedding_is_the_closed_form():
    gammas = [-20.0, -13.3, 0.0, 5.0, 20.0]
    rates = [math.exp(-math.log(10_000) * j / 3) for j in range(4)]
    phases = [[1000 * (gamma + 20) / 40 * rate for rate in rates] for gamma in gammas]
    expected = [[f(p) for f in (math.sin, math.cos) for p in row] for row in phases]
    actual = embed_gamma(torch.tensor(gammas), 8)
    torch.testing.assert_close(actual, torch.tensor(expected), atol=1e-4, rtol=0)


def test_embedding_tells_gammas_apart_beyond_any_configured_end():
    """Its slowest feature rises all the way, so no two noise levels look alike."""
    slowest = embed_gamma(torch.linspace(-25, 25, 1000), 32)[:, 15]
    assert (slowest.diff() > 0).all()


def test_embedding_stays_in_float32_under_autocast_and_refuses_less():
    gamma = torch.tensor([-13.3, 4.9])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = embed_gamma(gamma, 32)
    assert torch.equal(inside, embed_gamma(gamma, 32))
    with pytest.raises(TypeError, match="bfloat16"):
        embed_gamma(gamma.bfloat16(), 32)


def test_null_label_is_the_all_zero_vector(perturbed):
    conditioning = perturbed(Conditioning(8, classes=3))
    gamma = torch.linspace(-13, 5, 4)
    null = conditioning(gamma, torch.full((4,), -1))
    assert torch.equal(conditioning(gamma), null)
    assert not torch.equal(conditioning(gamma, torch.tensor([0, 1, 2, 0])), null)
    with torch.no_grad():
        conditioning.classes_embedding.weight.zero_()
    assert torch.equal(conditioning(gamma, torch.tensor([0, 1, 2, 0])), null)


def test_labels_act_row_by_row(perturbed):
    conditioning = perturbed(Conditioning(8, classes=3))
    gamma = torch.zeros(3)
    mixed = conditioning(gamma, torch.tensor([2, -1, 0]))
    assert torch.equal(mixed[1], conditioning(gamma)[1])
    torch.testing.assert_close(mixed[0], conditioning(gamma[:1], torch.tensor([2]))[0])


def test_embedding_gets_a_zero_gradient_without_labels_and_not_none(perturbed):
    """Data-parallel workers would wait for a gradient that only some of them have."""
    conditioning = perturbed(Conditioning(8, classes=3))
    conditioning(torch.zeros(2)).sum().backward()
    assert torch.equal(conditioning.classes_embedding.weight.grad, torch.zeros(3, 32))


def test_extra_scalar_adds_weights_and_nothing_else(perturbed):
    plain, extra = perturbed(Conditioning(8)), Conditioning(8, extra_scalar=True)
    state = plain.state_dict()
    state["dense_0.weight"] = torch.cat([state["dense_0.weight"], torch.randn(32, 1)], dim=1)
    extra.load_state_dict(state)
    gamma = torch.linspace(-13, 5, 4)
    torch.testing.assert_close(extra(gamma), plain(gamma))


@pytest.mark.parametrize("width", [0, 2, 7])
def test_impossible_widths_are_refused(width):
    with pytest.raises(ValueError, match=f"width is {width}"):
        Conditioning(width)


def test_no_classes_at_all_is_spelled_none():
    with pytest.raises(ValueError, match="None"):
        Conditioning(8, classes=0)
