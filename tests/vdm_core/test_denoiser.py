import pytest
import torch
from torch import nn

from vdm_core import VDM, LinearSchedule
from vdm_core.denoiser import clip_data, epsilon_denoiser, threshold_data


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
    for gamma in (-10.0, 0.0, 5.0):
        expected = denoiser("epsilon")(z, gamma, None)
        torch.testing.assert_close(denoiser(prediction)(z, gamma, None), expected)


def test_epsilon_is_float32_also_from_a_network_in_bfloat16():
    class Coarse(nn.Module):
        def forward(self, z, gamma, labels=None):
            return z.bfloat16()

    z = torch.randn(2, 1, 2, 2)
    denoiser = epsilon_denoiser(VDM(Coarse(), LinearSchedule()))
    assert denoiser(z, 0.0, None).dtype == torch.float32


class Spy(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.classes, self.calls = classes, []

    def forward(self, z, gamma, labels=None):
        self.calls.append((gamma, labels))
        return z


def test_network_gets_gamma_for_each_example_and_its_labels():
    network, labels = Spy(classes=3), torch.tensor([0, 2])
    epsilon_denoiser(VDM(network, LinearSchedule()))(torch.randn(2, 1, 2, 2), 1.5, labels)
    ((gamma, seen),) = network.calls
    assert torch.equal(gamma, torch.tensor([1.5, 1.5]))
    assert torch.equal(seen, labels)


def test_an_unconditional_network_is_shown_no_labels():
    network = Spy(classes=None)
    epsilon_denoiser(VDM(network, LinearSchedule()))(torch.randn(1, 1, 2, 2), 0.0, torch.ones(1))
    assert network.calls[0][1] is None


GAMMA = 1.0
ALPHA, SIGMA = (torch.tensor(s * GAMMA).double().sigmoid().sqrt() for s in (-1, 1))


def half(z, gamma, labels):
    return 0.5 * z


def latent():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(5, 1, 4, 4, generator=generator, dtype=torch.float64)


def x_hat(denoiser, z):
    return (z - SIGMA * denoiser(z, GAMMA, None)) / ALPHA


def test_clipping_bounds_x_hat_and_leaves_the_rest_alone():
    z = latent()
    free, clipped = x_hat(half, z), x_hat(clip_data(half), z)
    assert 0 < (free.abs() > 1).double().mean() < 1
    torch.testing.assert_close(clipped, free.clamp(-1, 1))
    inside = free.abs() <= 1
    assert torch.equal(clip_data(half)(z, GAMMA, None)[inside], half(z, GAMMA, None)[inside])


@pytest.mark.parametrize(("quantile", "rank"), [(0.75, 12), (0.9, 15), (1.0, 16), (1e-9, 1)])
def test_dynamic_threshold_scales_each_example_by_its_own_quantile(quantile, rank):
    z = latent() * torch.tensor([3.0, 2.0, 1.0, 0.5, 0.01])[:, None, None, None].double()
    free, found = x_hat(half, z), x_hat(threshold_data(half, quantile), z)
    for one, thresholded in zip(free, found, strict=True):
        s = max(1.0, one.abs().flatten().sort().values[rank - 1].item())
        torch.testing.assert_close(thresholded, one.clamp(-s, s) / s)
    assert torch.equal(threshold_data(half, quantile)(z, GAMMA, None)[4], half(z[4], GAMMA, None))


def test_changing_x_hat_keeps_the_latents_dtype():
    for wrap in (clip_data, threshold_data):
        assert wrap(half)(latent().float(), GAMMA, None).dtype == torch.float32


@pytest.mark.parametrize("quantile", [0.0, 1.5, float("nan")])
def test_quantiles_out_of_range_are_refused(quantile):
    with pytest.raises(ValueError, match=r"quantile is .*give a number in \(0, 1\]"):
        threshold_data(half, quantile)
