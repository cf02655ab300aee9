"""A schedule that depends on the image: the latent's law, its KL, and a gamma for each example."""

import math

import pytest
import torch
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from vdm_core import (
    VDM,
    AdaptiveElboTerms,
    AdaptiveSchedule,
    LinearSchedule,
    MultivariateSchedule,
    elbo,
)
from vdm_core.adaptive import at_prior_mean

SHAPE = (2, 4, 4)


def make(scale: float = 0.3) -> AdaptiveSchedule:
    """An adaptive schedule in float64 that has moved away from its start."""
    torch.manual_seed(0)
    schedule = AdaptiveSchedule(SHAPE, latent_dim=3, width=4).double()
    with torch.no_grad():
        for parameter in schedule.parameters():
            if parameter.numel() > 1:
                parameter += scale * torch.randn(parameter.shape, dtype=torch.float64)
    return schedule


class Convolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        answer: Tensor = self.conv(z) + 0.1 * gamma[:, None, None, None]
        return answer


def draws(batch: int = 4) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(2, batch, *SHAPE, generator=generator, dtype=torch.float64)
    return {
        "images": torch.randint(256, (batch, *SHAPE), generator=generator, dtype=torch.uint8),
        "times": torch.rand(batch, generator=generator, dtype=torch.float64),
        "noise": noise[0],
        "noise_0": noise[1],
        "noise_latent": torch.randn(batch, 3, generator=generator, dtype=torch.float64),
    }


def test_the_latent_is_a_draw_of_the_encoders_normal_and_the_kl_is_its_closed_form() -> None:
    schedule = make()
    x, noise = torch.rand(5, *SHAPE, dtype=torch.float64) * 2 - 1, torch.randn(5, 3).double()
    mean, log_variance = schedule.encoder(x)
    posterior, standard = Normal(mean, (log_variance / 2).exp()), Normal(0.0, 1.0)
    drawn = schedule.infer(x, noise)
    torch.testing.assert_close(drawn.value, mean + posterior.stddev * noise)
    torch.testing.assert_close(drawn.kl, kl_divergence(posterior, standard).sum(1))
    ratio = posterior.log_prob(drawn.value) - standard.log_prob(drawn.value)
    torch.testing.assert_close(drawn.log_ratio, ratio.sum(1))


def test_gamma_is_each_examples_own_with_pinned_ends_and_a_rising_path() -> None:
    schedule, latent = make(), torch.randn(5, 3, dtype=torch.float64)
    t = torch.linspace(0, 1, 65, dtype=torch.float64)[:, None]
    point = schedule(t, latent)
    assert point.gamma.shape == point.slope.shape == (65, 5, *SHAPE)
    gamma_0, gamma_1 = schedule.ends()
    assert (point.gamma[0] == gamma_0).all()
    assert (point.gamma[-1] == gamma_1).all()
    assert (point.gamma.diff(dim=0) > 0).all()
    assert (point.gamma[32].std(0) > 0.01).all()
    alone = schedule(t, latent[3:4])
    torch.testing.assert_close(alone.gamma[:, 0], point.gamma[:, 3])
    own_times = schedule(torch.linspace(0, 1, 5, dtype=torch.float64), latent)
    torch.testing.assert_close(own_times.gamma[2], point.gamma[32, 2])


def test_the_slope_is_the_derivative_of_gamma() -> None:
    schedule, latent = make(), torch.randn(3, 3, dtype=torch.float64)
    t = torch.rand(3, dtype=torch.float64)
    derivative = torch.autograd.functional.jacobian(lambda t: schedule(t, latent).gamma.sum(0), t)
    slope = schedule(t, latent).slope
    torch.testing.assert_close(slope, derivative.movedim(-1, 0), rtol=1e-9, atol=1e-10)


def test_at_the_start_the_terms_are_those_of_the_line_and_the_fourth_is_zero() -> None:
    network, batch = Convolution().double(), draws()
    start = VDM(network, AdaptiveSchedule(SHAPE, latent_dim=3)).double()(**batch)
    line = VDM(network, LinearSchedule()).double()(**batch)
    assert isinstance(start, AdaptiveElboTerms)
    assert torch.equal(start.auxiliary, torch.zeros(4, dtype=torch.float64))
    for got, expected in zip(start, line, strict=False):
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(start.bits_per_dim(32), line.bits_per_dim(32))


@pytest.mark.parametrize("steps", [None, 10])
def test_the_four_terms_are_those_of_each_example_given_its_latent(steps: int | None) -> None:
    """One example at a time, from the schedule that its own latent fixes."""
    schedule, network, batch = make(), Convolution().double(), draws()
    vdm = VDM(network, schedule, steps=steps)
    terms = vdm(**batch)
    torch.testing.assert_close(terms.total, torch.stack(tuple(terms)).sum(0))
    for i in range(4):
        one = {name: value[i : i + 1] for name, value in batch.items()}
        x = (2 * one["images"].double() - 255) / 256
        latent, kl, _ = schedule.infer(x, one["noise_latent"])
        at = elbo.noise_levels(
            lambda t, latent=latent: schedule(t, latent), one["times"], steps, torch.float64
        )
        z = at.gamma_t.neg().sigmoid().sqrt() * x + at.gamma_t.sigmoid().sqrt() * one["noise"]
        error = one["noise"] - network(z, at.gamma_t.mean((1, 2, 3)))
        torch.testing.assert_close(terms.diffusion[i], 0.5 * (at.weight * error.square()).sum())
        torch.testing.assert_close(terms.auxiliary[i], kl[0])
        torch.testing.assert_close(terms.prior[i], elbo.prior(x, at.gamma_1)[0])


def test_every_parameter_gets_a_gradient_from_the_total() -> None:
    vdm = VDM(Convolution().double(), make())
    vdm(**draws()).total.mean().backward()
    for name, parameter in vdm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_training_lets_the_schedule_tell_two_kinds_of_image_apart() -> None:
    """Images that are noise on the left or on the right half: a denoiser that is blind there gains
    from a path for each kind, which only the latent can tell it. The bound, KL included, falls."""

    class Blind(nn.Module):
        """Takes every pixel for N(0, 1/4): right in neither half."""

        def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
            alpha, sigma = (torch.sigmoid(s * gamma).sqrt()[:, None, None, None] for s in (-1, 1))
            return sigma * z / (alpha.square() / 4 + sigma.square())

    torch.manual_seed(0)
    schedule = AdaptiveSchedule((1, 4, 4), -6.0, 4.0, learned=False, latent_dim=2, width=8)
    vdm = VDM(Blind(), schedule)
    images = torch.full((64, 1, 4, 4), 128, dtype=torch.uint8)
    images[:32, :, :, :2] = torch.randint(256, (32, 1, 4, 2), dtype=torch.uint8)
    images[32:, :, :, 2:] = torch.randint(256, (32, 1, 4, 2), dtype=torch.uint8)
    optimizer = torch.optim.Adam(vdm.parameters(), lr=1e-2)
    totals = []
    for step in range(150):
        generator = torch.Generator().manual_seed(step)
        terms = vdm(images, generator=generator)
        optimizer.zero_grad()
        terms.total.mean().backward()
        optimizer.step()
        totals.append(terms.total.mean().item())
    assert sum(totals[-30:]) / 30 < sum(totals[:30]) / 30 - 0.3
    assert terms.auxiliary.mean() > 0.1


def test_wrong_input_is_an_error_that_names_it() -> None:
    with pytest.raises(ValueError, match="latent_dim 0"):
        AdaptiveSchedule(SHAPE, latent_dim=0)
    with pytest.raises(ValueError, match="shape is"):
        AdaptiveSchedule((2, 4, 0))
    with pytest.raises(ValueError, match=r"pass latent=c of shape \(B, 3\)"):
        make()(torch.linspace(0, 1, 3))
    batch = draws() | {"noise_latent": torch.zeros(4, 2)}
    with pytest.raises(ValueError, match="noise_latent has shape"):
        VDM(Convolution().double(), make())(**batch)
    assert math.isfinite(VDM(Convolution().double(), make())(draws()["images"]).total.sum().item())


def test_curves_are_those_of_the_latent_s_prior_mean():
    """A row for each time: of an adaptive schedule at c = 0, of another as it is."""
    schedule, t = make(), torch.tensor([0.0, 0.3, 1.0], dtype=torch.float64)
    point = at_prior_mean(schedule, t)
    assert point.gamma.shape == point.slope.shape == (3, *SHAPE)
    for row, time in enumerate(t):
        alone = schedule(time.view(1), torch.zeros(1, 3, dtype=torch.float64))
        assert torch.equal(point.gamma[row], alone.gamma[0])
        assert torch.equal(point.slope[row], alone.slope[0])
    assert at_prior_mean(LinearSchedule(), t).gamma.shape == (3,)
    assert at_prior_mean(MultivariateSchedule(SHAPE), t).gamma.shape == (3, *SHAPE)


def test_a_vdm_names_the_terms_that_it_returns():
    """Before it is asked for any."""
    images = torch.zeros(2, *SHAPE, dtype=torch.uint8)
    for schedule, latent_dim in ((make(), 3), (LinearSchedule().double(), None)):
        vdm = VDM(Convolution().double(), schedule)
        assert vdm.term_names == vdm(images)._fields
        assert vdm.latent_dim == latent_dim
