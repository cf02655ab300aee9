import pytest
import torch
from torch import nn

from vdm_core import VDM, LinearSchedule
from vdm_core.denoiser import clip_data, epsilon_denoiser


class Optimal(nn.Module):
    """The optimal network for pixels from N(0, 1/4), as a prediction of any kind."""

    def __init__(self, prediction):
        super().__init__()
        self.prediction = prediction

    def forward(self, z, gamma, labels=None):
        alpha, sigma = (torch.sigmoid(s * gamma).sqrt()[:, None, None, None] for s in (-1, 1))
        x = 0.25 * alpha * z / (0.25 * alpha**2 + sigma**2)
        epsilon = (z - alpha * x) / sigma
        score, v = -epsilon / sigma, alpha * epsilon - sigma * x
        return {"x": x, "epsilon": epsilon, "score": score, "v": v}[self.prediction]


@pytest.mark.parametrize("prediction", ["x", "v", "score"])
def test_what_the_network_predicts_does_not_change_the_denoiser(prediction):
    def denoiser(kind):
        return epsilon_denoiser(VDM(Optimal(kind), LinearSchedule(), prediction=kind).double())

    z = torch.randn(3, 1, 2, 2, generator=torch.Generator().manual_seed(0)).double()
    gamma = torch.tensor([-10.0, 0.0, 5.0], dtype=torch.float64)
    expected = denoiser("epsilon")(z, gamma, None)
    torch.testing.assert_close(denoiser(prediction)(z, gamma, None), expected)


def test_epsilon_is_float32_also_from_a_network_in_bfloat16():
    class Coarse(nn.Module):
        def forward(self, z, gamma, labels=None):
            return z.bfloat16()

    z = torch.randn(2, 1, 2, 2)
    denoiser = epsilon_denoiser(VDM(Coarse(), LinearSchedule()))
    assert denoiser(z, torch.zeros(2), None).dtype == torch.float32


def test_clipping_bounds_x_hat_and_leaves_the_rest_alone():
    generator = torch.Generator().manual_seed(0)
    z = torch.randn(5, 1, 4, 4, generator=generator, dtype=torch.float64)
    gamma = torch.linspace(-5, 5, 5, dtype=torch.float64)
    alpha, sigma = (torch.sigmoid(s * gamma).sqrt()[:, None, None, None] for s in (-1, 1))
    free = 0.5 * z
    clipped = clip_data(lambda z, gamma, labels: 0.5 * z)(z, gamma, None)
    x_free, x_clipped = (z - sigma * free) / alpha, (z - sigma * clipped) / alpha
    assert 0 < (x_free.abs() > 1).double().mean() < 1
    torch.testing.assert_close(x_clipped, x_free.clamp(-1, 1))
    assert torch.equal(clipped[x_free.abs() <= 1], free[x_free.abs() <= 1])
