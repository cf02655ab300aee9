import math

import pytest
import torch
from torch import nn

from vdm_core import VDM, ClassifierFree, DownsamplingUNet, LinearSchedule, sample
from vdm_core.denoiser import threshold_data
from vdm_core.guidance import Autoguidance, Classifier
from vdm_core.rng import Purpose, normal
from vdm_core.samplers import ancestral, ddim, dpmpp_2m, heun, pc


class Optimal(nn.Module):
    """The exact epsilon_hat for pixels from N(0, 1/4)."""

    def forward(self, z, gamma, labels=None):
        alpha2, sigma2 = (torch.sigmoid(s * gamma)[:, None, None, None] for s in (-1, 1))
        return sigma2.sqrt() * z / (0.25 * alpha2 + sigma2)


class OptimalUnconditional(Optimal):
    classes = None


def vdm_of(network, gamma_0=-13.3):
    schedule = LinearSchedule(gamma_0=gamma_0, gamma_1=5.0, learned=False)
    return VDM(network=network, schedule=schedule).double()


def test_samples_have_the_statistics_of_the_data():
    """Pixels from N(0, 1/4) in [-1, 1]: mean 127.5, deviation 64 levels, cut at both ends."""
    images = sample(vdm_of(Optimal()), torch.arange(4), shape=(1, 64, 64), steps=100)
    assert images.dtype == torch.uint8
    levels = images.double()
    normal = torch.distributions.Normal(127.5, 64.0)
    edges = torch.arange(1, 256).double() - 0.5
    expected = normal.cdf(edges)
    actual = torch.searchsorted(levels.flatten().sort().values, edges) / levels.numel()
    assert (actual - expected).abs().max() < 0.02


@pytest.fixture
def model(perturbed):
    return vdm_of(perturbed(DownsamplingUNet(1, width=8, multipliers=(1, 2), classes=3)))


def draw(model, ids, labels=None, **options):
    options = {"shape": (1, 4, 4), "steps": 5, **options}
    labels = None if labels is None else torch.tensor(labels)
    return sample(model, torch.tensor(ids), labels, **options)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"decode": "sample"},
        {"sampler": "ddim"},
        {"sampler": "dpmpp_2m", "clip": "dynamic"},
        {"sampler": "heun", "grid": "gamma"},
        {"sampler": "pc"},
        {"guidance": ClassifierFree(2.0)},
    ],
    ids=["plain", "drawn levels", "ddim", "dpmpp_2m", "heun", "pc", "guided"],
)
def test_a_sample_depends_on_its_own_id_and_label_alone(model, options):
    together = draw(model, [7, 3, 11], [0, 1, 2], **options)
    assert torch.equal(draw(model, [11, 7], [2, 0], **options), together[[2, 0]])
    assert torch.equal(draw(model, [3], [1], **options), together[1:2])
    assert not torch.equal(together[0], together[1])


@pytest.mark.parametrize("sampler", [ancestral, ddim, dpmpp_2m, heun, pc])
def test_batch_size_does_not_change_a_bit_of_a_latent(sampler):
    """With a network that works pixel by pixel, whose kernels do not depend on the batch."""
    kept = []

    def keeping(*arguments):
        for z in sampler(*arguments):
            yield z
        kept.append(z)

    for ids in ([7, 3, 11, 5, 0], [3], [5, 11]):
        draw(vdm_of(Optimal()).float(), ids, sampler=keeping)
    together, one, two = kept
    assert together.dtype == torch.float32
    assert torch.equal(one, together[1:2])
    assert torch.equal(two, together[[3, 2]])


def test_noise_is_keyed_by_seed_purpose_id_and_step(model):
    """Recorded runs can be sampled again, and no noise is used twice."""
    seen = []

    def spy(denoiser, z, labels, gammas, noise):
        seen.extend([z, noise(0), noise(1)])
        yield z

    draw(model, [5, 9], sampler=spy, seed=3)
    keys = [(Purpose.SAMPLE_INIT, 0), (Purpose.SAMPLE_STEP, 0), (Purpose.SAMPLE_STEP, 1)]
    for actual, (purpose, step) in zip(seen, keys, strict=True):
        ids = torch.tensor([5, 9])
        expected = normal(3, purpose, ids, (1, 4, 4), step=step, dtype=torch.float64)
        assert torch.equal(actual, expected)


def test_seed_decides_the_samples(model):
    assert torch.equal(draw(model, [0, 1], seed=5), draw(model, [0, 1], seed=5))
    assert not torch.equal(draw(model, [0, 1], seed=5), draw(model, [0, 1], seed=6))


def test_default_generator_is_neither_read_nor_moved(model):
    torch.manual_seed(1)
    before, first = torch.get_rng_state(), draw(model, [0])
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw(model, [0]), first)


def test_labels_and_guidance_change_the_samples(model):
    plain = draw(model, [0, 1], [0, 1])
    assert not torch.equal(plain, draw(model, [0, 1]))
    assert torch.equal(plain, draw(model, [0, 1], [0, 1], guidance=ClassifierFree(1.0)))
    assert torch.equal(
        draw(model, [0, 1]), draw(model, [0, 1], [0, 1], guidance=ClassifierFree(0.0))
    )
    assert not torch.equal(plain, draw(model, [0, 1], [0, 1], guidance=ClassifierFree(3.0)))


@pytest.mark.parametrize("sampler", [ancestral, ddim, dpmpp_2m, heun, pc])
def test_a_sampler_may_be_given_by_name_or_as_a_function(model, sampler):
    by_name = draw(model, [0], sampler=sampler.__name__)
    assert torch.equal(draw(model, [0], sampler=sampler), by_name)


def gammas_of(model, **options):
    """The gammas at which the sampler stops."""
    seen = []

    def spy(denoiser, z, labels, gammas, noise):
        seen.append(gammas)
        yield z

    draw(model, [0], sampler=spy, **options)
    return seen[0]


def test_grid_is_even_in_t_or_gamma_or_as_given(model):
    expected = torch.linspace(5.0, -13.3, 6)
    for grid in ("t", "gamma"):
        torch.testing.assert_close(gammas_of(model, grid=grid).float(), expected)
    given = torch.tensor([5.0, 0.0, -13.0])
    assert torch.equal(gammas_of(model, grid=given, steps=2), given.double())


def test_a_given_grid_is_decoded_at_its_own_last_gamma():
    """z_0 / alpha is the estimate of x: with another alpha, bright pixels would come out dark."""
    latent = torch.full((1, 1, 4, 4), 0.5, dtype=torch.float64)

    def still(denoiser, z, labels, gammas, noise):
        yield latent

    images = draw(vdm_of(Optimal()), [0], sampler=still, grid=torch.tensor([5.0, 0.0]), steps=1)
    assert images.unique().tolist() == [round((0.5 * math.sqrt(2) + 1) * 128 - 0.5)]


def test_guidances_apply_from_first_to_last(model):
    def weaker(z, gamma, labels):
        return z * (0.5 + 0.2 * labels)[:, None, None, None]

    first, second = ClassifierFree(2.0), Autoguidance(weaker, 1.5)
    both = draw(model, [0, 1], [0, 1], guidance=(first, second))
    nested = draw(model, [0, 1], [0, 1], guidance=lambda denoiser: second(first(denoiser)))
    assert torch.equal(both, nested)
    assert not torch.equal(both, draw(model, [0, 1], [0, 1], guidance=(second, first)))


def test_clipping_and_thresholding_change_what_leaves_the_range(model):
    """The perturbed network's x_hat is far outside [-1, 1]."""
    free, static, dynamic = (draw(model, [0], clip=c) for c in (None, "static", "dynamic"))
    assert not torch.equal(free, static)
    assert not torch.equal(static, dynamic)
    assert torch.equal(draw(model, [0], guidance=threshold_data), dynamic)


def test_a_classifier_guides_an_unconditional_network():
    """Pixels from N(0, 1/4) towards white or black; a row without a label stays as it is."""

    def brightness(z, gamma):
        total = 20 * z.mean((1, 2, 3))
        return torch.stack([-total, total], dim=1)

    model = vdm_of(OptimalUnconditional())
    images = draw(model, [0, 0, 0], [0, -1, 1], guidance=Classifier(brightness, 5.0), steps=50)
    dark, plain, bright = images.double().mean((1, 2, 3))
    assert dark < plain - 10
    assert bright > plain + 10
    assert torch.equal(images[1:2], draw(model, [0], steps=50))


def test_decoding_can_draw_a_level_where_z_0_leaves_a_choice():
    model = vdm_of(Optimal(), gamma_0=-6.0)
    likeliest = draw(model, [0, 1])
    drawn = draw(model, [0, 1], decode="sample")
    distance = (drawn.double() - likeliest.double()).abs()
    assert 0 < distance.max() < 5 * 128 * math.exp(-3)


def test_a_users_dropout_is_off_and_each_part_gets_its_mode_back(perturbed):
    network = perturbed(DownsamplingUNet(1, width=8, multipliers=(1, 2)))
    network.norm_out = nn.Sequential(network.norm_out, nn.Dropout(0.5))
    model = vdm_of(network)
    expected = draw(model.eval(), [0])
    model.train()
    network.conv_in.eval()
    assert torch.equal(draw(model, [0]), expected)
    assert [m for m in model.modules() if not m.training] == [network.conv_in]


def test_modes_come_back_after_an_error(model):
    def breaks(denoiser, z, labels, gammas, noise):
        raise RuntimeError("broken")
        yield z

    with pytest.raises(RuntimeError, match="broken"):
        draw(model, [0], sampler=breaks)
    assert model.training


def test_progress_hears_of_every_step(model):
    heard = []
    draw(model, [0], progress=heard.append)
    assert heard == [1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps is 0"),
        ({"sampler": "euler"}, "unknown sampler 'euler'; give one of 'ancestral', 'ddim', "),
        ({"grid": torch.tensor([1.0, 2.0]), "steps": 1}, "fall at every step"),
        ({"grid": torch.tensor([2.0, 1.0])}, r"grid has shape \(2,\); 5 steps take \(6,\)"),
        ({"grid": "log"}, "grid is 'log'"),
        ({"clip": "soft"}, "clip is 'soft'"),
        ({"decode": "mean"}, "decode is 'mean'"),
        ({"labels": [0, 1]}, "one label per sample"),
        ({"labels": [3]}, "label 3 is none of 3 classes"),
        ({"guidance": ClassifierFree(2.0)}, "classifier-free guidance needs labels"),
        ({"guidance": Classifier(lambda z, gamma: z, 2.0)}, "classifier guidance needs labels"),
    ],
)
def test_impossible_requests_are_refused_before_the_first_step(model, arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(model, [0], **arguments)


def test_an_unconditional_model_refuses_classifier_free_guidance_and_labels():
    model = vdm_of(DownsamplingUNet(1, width=8, multipliers=(1, 2)))
    other = Autoguidance(lambda z, gamma, labels: z, 2.0)
    for guidance in (ClassifierFree(2.0), (other, ClassifierFree(2.0))):
        with pytest.raises(ValueError, match="unconditional"):
            draw(model, [0], [-1], guidance=guidance)
    with pytest.raises(ValueError, match="no classes"):
        draw(model, [0], [1])
