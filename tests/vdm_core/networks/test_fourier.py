import math

import pytest
import torch

from vdm_core.networks.fourier import fourier_features, with_fourier_features


def test_features_match_float64_at_phases_of_thousands_of_radians():
    """Float32 latents keep every digit that float64 arithmetic on them gives."""
    z = torch.linspace(-6, 6, 4001).reshape(1, 1, 1, -1)
    phases = [2 * math.pi * 2**k * z.double() for k in (6, 7)]
    expected = torch.cat([f(p) for f in (torch.sin, torch.cos) for p in phases], dim=1)
    assert fourier_features(z).dtype == torch.float32
    torch.testing.assert_close(fourier_features(z).double(), expected, atol=1e-6, rtol=0)


def test_order_is_sines_then_cosines_and_channel_by_channel():
    z = torch.tensor([0.001, 0.002]).reshape(1, 2, 1, 1)
    phases = [2 * math.pi * 2**k * value for value in (0.001, 0.002) for k in (6, 7)]
    expected = [math.sin(p) for p in phases] + [math.cos(p) for p in phases]
    torch.testing.assert_close(fourier_features(z).flatten(), torch.tensor(expected))
    torch.testing.assert_close(with_fourier_features(z)[:, :2], z)
    assert with_fourier_features(z).shape == (1, 10, 1, 1)


def test_autocast_leaves_the_features_in_float32():
    z = torch.randn(2, 3, 4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = fourier_features(z)
    assert torch.equal(inside, fourier_features(z))


def test_gradient_is_that_of_the_sine():
    z = torch.randn(1, 1, 8, 8, dtype=torch.float64, requires_grad=True)
    (gradient,) = torch.autograd.grad(fourier_features(z)[:, 1].sum(), z)
    rate = 2 * math.pi * 2**7
    torch.testing.assert_close(gradient, rate * torch.cos(rate * z))


def test_latent_in_bfloat16_is_refused():
    with pytest.raises(TypeError, match="float32"):
        fourier_features(torch.zeros(1, 1, 2, 2, dtype=torch.bfloat16))
