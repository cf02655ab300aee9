"""What a noise-aware classifier descends, against its definition; and that its schedule stays."""

import math

import pytest
import torch

from vdm_core import AdaptiveSchedule, MonotoneSchedule, MultivariateSchedule
from vdm_core.classification import ScheduledClassifier
from vdm_core.decoder import encode
from vdm_core.networks.classifier import NoiseAwareClassifier

SHAPE = (2, 6, 4)


def inputs(batch: int = 5):
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (batch, *SHAPE), generator=generator, dtype=torch.uint8)
    noise = torch.randn(batch, *SHAPE, generator=generator)
    return images, torch.linspace(0, 1, batch), noise


@pytest.mark.parametrize("per_pixel", [False, True])
def test_terms_are_those_of_the_latent_at_the_schedules_noise_level(perturbed, per_pixel):
    """-log p(y | z_t, gamma_t) with z_t = alpha x + sigma noise; a missing label gives 0."""
    schedule = MultivariateSchedule(SHAPE) if per_pixel else MonotoneSchedule()
    network = perturbed(NoiseAwareClassifier(2, 3, 8, (1, 2)))
    images, times, noise = inputs()
    labels = torch.tensor([0, 1, 2, -1, 1])
    terms = ScheduledClassifier(network, schedule)(images, labels, times=times, noise=noise)

    gamma = schedule(times).gamma
    wide = gamma if per_pixel else gamma.view(-1, 1, 1, 1)
    z = torch.sigmoid(-wide).sqrt() * encode(images, 256) + torch.sigmoid(wide).sqrt() * noise
    log_p = network(z, gamma.flatten(1).mean(1) if per_pixel else gamma).log_softmax(1)
    expected = torch.where(labels < 0, 0.0, -log_p.gather(1, labels.clamp(0)[:, None])[:, 0])
    torch.testing.assert_close(terms.cross_entropy, expected)
    assert torch.equal(terms.correct.bool(), log_p.argmax(1) == labels)
    torch.testing.assert_close(terms.bits_per_dim(1), expected / math.log(2))


def test_a_frozen_schedule_is_the_same_without_parameters():
    """Its values and its state dict stay, so that its digest does."""
    schedule, times = MonotoneSchedule(), torch.linspace(0, 1, 9)
    with torch.no_grad():
        for parameter in schedule.parameters():
            parameter += 0.2
    before, state = schedule(times), {n: v.clone() for n, v in schedule.state_dict().items()}
    model = ScheduledClassifier(NoiseAwareClassifier(2, 3, 8, (1,)), schedule)
    assert not [n for n, _ in model.named_parameters() if n.startswith("schedule.")]
    assert torch.equal(model.schedule(times).gamma, before.gamma)
    assert model.schedule.state_dict().keys() == state.keys()
    assert all(torch.equal(model.schedule.state_dict()[n], v) for n, v in state.items())


def test_what_cannot_be_learned_is_refused():
    network = NoiseAwareClassifier(2, 3, 8, (1,))
    with pytest.raises(ValueError, match="a latent of its own"):
        ScheduledClassifier(network, AdaptiveSchedule(SHAPE))
    images, times, noise = inputs()
    with pytest.raises(ValueError, match="there are none"):
        ScheduledClassifier(network, MonotoneSchedule())(images, times=times, noise=noise)
