"""Sampling where each pixel has a gamma of its own: maps in place of numbers."""

import itertools
import math

import pytest
import torch
from torch import nn

from vdm_core import (
    VDM,
    AdaptiveSchedule,
    ClassifierFree,
    DownsamplingUNet,
    LinearSchedule,
    MultivariateSchedule,
    sample,
)
from vdm_core.guidance import Classifier
from vdm_core.rng import Purpose, normal
from vdm_core.samplers import ancestral, ddim, pc

SHAPE = (1, 4, 4)
VARIANCES = torch.tensor([0.01, 0.2, 0.5, 2.0], dtype=torch.float64)


def independent(z, gamma, labels):
    """The exact epsilon_hat of pixels from N(0, VARIANCES), each at its own gamma."""
    gamma = torch.as_tensor(gamma, dtype=z.dtype)
    variances = VARIANCES if z.shape[-1] == 4 else VARIANCES[labels]
    return torch.sigmoid(gamma).sqrt() * z / (torch.sigmoid(-gamma) * variances + gamma.sigmoid())


@pytest.fixture
def maps():
    """Seven falling gammas for each of 4 pixels, (7, 1, 1, 1, 4), no two alike."""
    generator = torch.Generator().manual_seed(0)
    falls = 0.5 + 3 * torch.rand(7, 1, 1, 1, 4, generator=generator, dtype=torch.float64)
    return 6.0 - falls.cumsum(0)


@pytest.mark.parametrize("sampler", [ancestral, ddim, pc])
def test_each_pixel_walks_as_it_would_alone(sampler, maps):
    """With a denoiser that keeps pixels apart, 4 pixels are 4 walks along numbers."""
    noises = torch.randn(13, 2, 1, 1, 4, generator=torch.Generator().manual_seed(1)).double()
    *_, together = sampler(independent, noises[12], None, maps, lambda k: noises[k])
    for pixel in range(4):
        own = noises[..., pixel : pixel + 1]
        *_, alone = sampler(
            independent, own[12], pixel, maps[..., pixel].flatten(), own.__getitem__
        )
        torch.testing.assert_close(together[..., pixel : pixel + 1], alone)


def test_ancestral_follows_the_linear_recursion_of_each_pixel(maps):
    """Ho et al. 2020's posterior with x replaced by E[x | z], pixel by pixel, for the variance."""
    expected = []
    for pixel, data in enumerate(VARIANCES.tolist()):
        variance, gammas = 1.0, maps[..., pixel].flatten().tolist()
        for gamma_t, gamma_s in itertools.pairwise(gammas):
            bar_t, bar_s = 1 / (1 + math.exp(gamma_t)), 1 / (1 + math.exp(gamma_s))
            step = bar_t / bar_s
            gain = math.sqrt(bar_t) * data / (bar_t * data + 1 - bar_t)
            matrix = math.sqrt(step) * (1 - bar_s) + math.sqrt(bar_s) * (1 - step) * gain
            added = (1 - step) * (1 - bar_s) / (1 - bar_t)
            variance = (matrix / (1 - bar_t)) ** 2 * variance + added
        expected.append(variance)
    ones, zeros = torch.ones(1, 1, 1, 4).double(), torch.zeros(1, 1, 1, 4).double()
    found = torch.zeros(4, dtype=torch.float64)
    for loud in range(-1, 6):  # z_1, then each draw of noise, by itself
        start = ones if loud < 0 else zeros
        draws = [ones if draw == loud else zeros for draw in range(6)]
        *_, z_0 = ancestral(independent, start, None, maps, draws.__getitem__)
        found += z_0.flatten().square()
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))


def vdm_of(network, schedule):
    return VDM(network, schedule, prediction="v").double()


@pytest.fixture
def network(perturbed):
    return perturbed(DownsamplingUNet(1, width=8, multipliers=(1, 2), classes=3))


def adaptive():
    """An adaptive schedule whose latent matters."""
    schedule = AdaptiveSchedule(SHAPE, latent_dim=2, width=4)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in schedule.decoder.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=generator)
    return schedule


def draw(model, ids, labels=None, **options):
    labels = None if labels is None else torch.tensor(labels)
    return sample(model, torch.tensor(ids), labels, **({"shape": SHAPE, "steps": 5} | options))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"sampler": "ddim", "clip": "static"},
        {"sampler": "pc", "decode": "sample"},
        {"guidance": ClassifierFree(2.0), "clip": "dynamic"},
        {"guidance": Classifier(lambda z, gamma: z.flatten(1)[:, :3] * gamma[:, None], 2.0)},
    ],
    ids=["ancestral", "ddim clipped", "pc drawn", "guided", "classifier"],
)
@pytest.mark.parametrize("schedule", [MultivariateSchedule, AdaptiveSchedule])
def test_a_map_that_is_flat_samples_as_one_gamma_does(network, schedule, options):
    """Fresh schedules are straight lines at every pixel, for any latent."""
    flat, line = vdm_of(network, schedule(SHAPE)), vdm_of(network, LinearSchedule())
    expected = draw(line, [4, 9], [0, 2], **options)
    # Rounding of the mean of equal numbers may move a pixel that lies between two levels.
    assert (draw(flat, [4, 9], [0, 2], **options).int() - expected.int()).abs().max() <= 1


@pytest.mark.parametrize("options", [{}, {"guidance": ClassifierFree(2.0)}])
def test_a_sample_of_an_adaptive_schedule_depends_on_its_own_id_alone(network, options):
    model = vdm_of(network, adaptive())
    together = draw(model, [7, 3, 11], [0, 1, 2], **options)
    assert torch.equal(draw(model, [11, 7], [2, 0], **options), together[[2, 0]])
    assert torch.equal(draw(model, [3], [1], **options), together[1:2])


class Told(nn.Module):
    """Answers 0 and keeps what it is told of gamma."""

    def __init__(self):
        super().__init__()
        self.gammas = []

    def forward(self, z, gamma, labels=None):
        self.gammas.append(gamma)
        return torch.zeros_like(z)


def test_the_latent_belongs_to_the_sample_and_the_network_is_told_the_mean():
    """gamma(t, c) in float64 with c ~ N(0, I) of (seed, id), as recorded runs have it."""
    told, ids = Told(), torch.tensor([5, 9])
    model, seen = vdm_of(told, adaptive()), []

    def spy(denoiser, z, labels, gammas, noise):
        seen.append(gammas)
        yield from ancestral(denoiser, z, labels, gammas, noise)

    draw(model, [5, 9], sampler=spy, seed=3)
    c = normal(3, Purpose.LATENT, ids, (2,), dtype=torch.float64)
    times = torch.linspace(1, 0, 6, dtype=torch.float64)[:, None]
    expected = model.schedule(times, c).gamma
    assert torch.equal(seen[0], expected)
    assert not torch.allclose(expected[2, 0], expected[2, 1])
    torch.testing.assert_close(torch.stack(told.gammas), expected[:-1].flatten(2).mean(2))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sampler": "heun"}, "heun walks one gamma for all pixels"),
        ({"sampler": "dpmpp_2m"}, "dpmpp_2m walks one gamma for all pixels"),
        ({"grid": "gamma"}, "grid is 'gamma', and a MultivariateSchedule has a gamma for each"),
        ({"guidance": ClassifierFree(2.0, (-5.0, 0.0))}, "gamma_interval .* is of one gamma"),
        ({"steps": 0}, "steps is 0"),
    ],
)
def test_what_asks_for_one_gamma_is_refused(network, options, message):
    model = vdm_of(network, MultivariateSchedule(SHAPE))
    with pytest.raises(ValueError, match=message):
        draw(model, [0], [0], **options)
