import math

import pytest
import torch
from torch import nn

from vdm_core import VDM, ClassifierFree, DownsamplingUNet, LinearSchedule
from vdm_core.denoiser import epsilon_denoiser
from vdm_core.guidance import Autoguidance, Classifier

GAMMA = -2.0
LABELS = torch.tensor([0, 2, 1])
UNLABELLED = torch.full((3,), -1)


class Recorded:
    """A denoiser whose answer tells z, gamma and label apart, and which keeps its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, z, gamma, labels):
        self.calls.append(labels)
        return z * (2.0 + labels.double())[:, None, None, None] + gamma


def latent():
    return torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conditional(z, gamma=GAMMA):
    return Recorded()(z, gamma, LABELS)


def unconditional(z, gamma=GAMMA):
    return Recorded()(z, gamma, UNLABELLED)


def weaker(z, gamma, labels):
    return 0.5 * z.sin() - gamma


def logits(z, gamma):
    """Three classes; a curved function of z, other at every gamma."""
    z, gamma = z.flatten(1), gamma[:, None]
    return torch.cat([z[:, :1] ** 2, z[:, 1:2] * z[:, 2:3] + gamma, gamma * z[:, 3:4].sin()], dim=1)


def log_prob_gradient(z, gamma, label):
    """grad_z log p(label | z) for one example, worked out by hand from `logits`."""
    a, b, c, d = z.flatten()[:4].tolist()
    p = logits(z[None], torch.tensor([gamma]).double()).softmax(1)[0]
    weight = torch.eye(3).double()[label] - p
    gradient = torch.zeros(16, dtype=torch.float64)
    gradient[0] = weight[0] * 2 * a
    gradient[1], gradient[2] = weight[1] * c, weight[1] * b
    gradient[3] = weight[2] * gamma * math.cos(d)
    return gradient.reshape(1, 4, 4)


# Classifier-free


@pytest.mark.parametrize("scale", [-0.5, 0.3, 2.0, 7.5])
def test_guided_is_w_conditional_plus_one_minus_w_unconditional(scale):
    z = latent()
    expected = scale * conditional(z) + (1 - scale) * unconditional(z)
    torch.testing.assert_close(ClassifierFree(scale)(Recorded())(z, GAMMA, LABELS), expected)


def test_both_halves_run_as_one_batch():
    denoiser = Recorded()
    ClassifierFree(2.0)(denoiser)(latent(), GAMMA, LABELS)
    assert [call.tolist() for call in denoiser.calls] == [[0, 2, 1, -1, -1, -1]]


@pytest.mark.parametrize(("scale", "labels"), [(1.0, [0, 2, 1]), (0.0, [-1, -1, -1])])
def test_weights_of_one_and_zero_run_one_half_only(scale, labels):
    denoiser, z = Recorded(), latent()
    guided = ClassifierFree(scale)(denoiser)(z, GAMMA, LABELS)
    assert torch.equal(guided, conditional(z) if scale else unconditional(z))
    assert [call.tolist() for call in denoiser.calls] == [labels]


@pytest.mark.parametrize("scale", [0.0, 3.0])
def test_outside_its_interval_the_model_is_plainly_conditional_for_the_price_of_one(scale):
    z = latent()
    for gamma in (-5.1, 0.1):
        denoiser = Recorded()
        guided = ClassifierFree(scale, gamma_interval=(-5.0, 0.0))(denoiser)(z, gamma, LABELS)
        assert torch.equal(guided, conditional(z, gamma))
        assert [call.tolist() for call in denoiser.calls] == [LABELS.tolist()]
    for gamma in (-5.0, -2.0, 0.0):
        guided = ClassifierFree(scale, gamma_interval=(-5.0, 0.0))(Recorded())(z, gamma, LABELS)
        expected = scale * conditional(z, gamma) + (1 - scale) * unconditional(z, gamma)
        torch.testing.assert_close(guided, expected)


def test_rows_without_a_label_stay_unconditional_at_any_weight():
    z = latent()
    guided = ClassifierFree(4.0)(Recorded())(z, GAMMA, UNLABELLED)
    torch.testing.assert_close(guided, unconditional(z))


def test_one_batch_of_a_network_equals_two(perturbed):
    network = perturbed(DownsamplingUNet(1, width=8, multipliers=(1, 2), classes=3))
    denoiser, z = epsilon_denoiser(VDM(network, LinearSchedule()).double()), latent()
    separate = 2.0 * denoiser(z, GAMMA, LABELS) - denoiser(z, GAMMA, None)
    torch.testing.assert_close(ClassifierFree(2.0)(denoiser)(z, GAMMA, LABELS), separate)


# By a classifier


@pytest.mark.parametrize("scale", [-1.0, 1.0, 3.0])
def test_classifier_shifts_epsilon_by_w_sigma_times_the_gradient(scale):
    z, labels = latent(), torch.tensor([0, -1, 2])
    guided = Classifier(logits, scale)(weaker)(z, GAMMA, labels)
    sigma = math.sqrt(1 / (1 + math.exp(-GAMMA)))
    expected = weaker(z, GAMMA, labels)
    for row in (0, 2):
        gradient = log_prob_gradient(z[row], GAMMA, labels[row])
        expected[row] = expected[row] - scale * sigma * gradient
    torch.testing.assert_close(guided, expected)


def test_classifier_guides_where_gradients_are_switched_off_and_leaves_no_graph():
    with torch.no_grad():
        guided = Classifier(logits, 2.0)(weaker)(latent(), GAMMA, LABELS)
    assert not guided.requires_grad
    torch.testing.assert_close(guided, Classifier(logits, 2.0)(weaker)(latent(), GAMMA, LABELS))


def test_classifier_works_for_a_batch_without_any_label():
    z = latent()
    guided = Classifier(logits, 2.0)(weaker)(z, GAMMA, UNLABELLED)
    assert torch.equal(guided, weaker(z, GAMMA, None))


def test_classifier_is_asked_inside_its_interval_only():
    def broken(z, gamma):
        raise AssertionError("asked")

    z, outside = latent(), Classifier(broken, 2.0, gamma_interval=(0.0, 1.0))
    assert torch.equal(outside(weaker)(z, GAMMA, LABELS), weaker(z, GAMMA, LABELS))
    assert torch.equal(Classifier(broken, 0.0)(weaker)(z, GAMMA, LABELS), weaker(z, GAMMA, LABELS))


def test_label_that_the_classifier_does_not_know_is_refused():
    with pytest.raises(ValueError, match="label 3 is none of 3 classes"):
        Classifier(logits, 1.0)(weaker)(latent(), GAMMA, torch.tensor([0, 3, 1]))


# By a weaker model


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0, 2.5])
def test_autoguidance_is_w_strong_plus_one_minus_w_weaker(scale):
    z = latent()
    guided = Autoguidance(weaker, scale)(Recorded())(z, GAMMA, LABELS)
    expected = scale * conditional(z) + (1 - scale) * weaker(z, GAMMA, LABELS)
    torch.testing.assert_close(guided, expected)


def test_autoguidance_takes_a_vdm_whatever_it_predicts(perturbed):
    network = perturbed(DownsamplingUNet(1, width=8, multipliers=(1, 2), classes=3))
    vdm, z = VDM(network, LinearSchedule(), prediction="v").double().eval(), latent()
    guided = Autoguidance(vdm, 2.0)(Recorded())(z, GAMMA, LABELS)
    expected = 2.0 * conditional(z) - epsilon_denoiser(vdm)(z, GAMMA, LABELS)
    torch.testing.assert_close(guided, expected)


def test_weaker_model_is_asked_inside_the_interval_only():
    z, strong, weak = latent(), Recorded(), Recorded()
    for guidance in (Autoguidance(weak, 2.0, gamma_interval=(0.0, 1.0)), Autoguidance(weak, 1.0)):
        assert torch.equal(guidance(strong)(z, GAMMA, LABELS), conditional(z))
    assert weak.calls == []


# How they compose


def composed(*guidances):
    denoiser = Recorded()
    for guidance in guidances:
        denoiser = guidance(denoiser)
    return denoiser(latent(), GAMMA, LABELS)


def test_weights_of_nested_classifier_free_guidance_multiply():
    found = composed(ClassifierFree(1.5), ClassifierFree(2.0))
    torch.testing.assert_close(found, composed(ClassifierFree(3.0)))


def test_weights_of_classifiers_add():
    found = composed(Classifier(logits, 1.5), Classifier(logits, 2.0))
    torch.testing.assert_close(found, composed(Classifier(logits, 3.5)))


def test_classifier_free_guidance_scales_a_classifier_beneath_it_and_not_one_above():
    free, classifier = ClassifierFree(2.0), Classifier(logits, 1.5)
    beneath, above = composed(classifier, free), composed(free, classifier)
    torch.testing.assert_close(above, composed(free) + composed(classifier) - conditional(latent()))
    torch.testing.assert_close(beneath, composed(free, Classifier(logits, 3.0)))


def test_autoguidance_above_scales_everything_beneath_it():
    free, auto, z = ClassifierFree(2.0), Autoguidance(weaker, 1.5), latent()
    expected = 1.5 * composed(free) - 0.5 * weaker(z, GAMMA, LABELS)
    torch.testing.assert_close(composed(free, auto), expected)


# What is refused, and dtypes


@pytest.mark.parametrize(
    "make",
    [
        ClassifierFree,
        lambda *arguments: Classifier(logits, *arguments),
        lambda *arguments: Autoguidance(weaker, *arguments),
    ],
    ids=["ClassifierFree", "Classifier", "Autoguidance"],
)
class TestEveryGuidance:
    @pytest.mark.parametrize("scale", [math.nan, math.inf])
    def test_scales_that_are_not_finite_are_refused(self, make, scale):
        with pytest.raises(ValueError, match=rf"scale is {scale}; give a finite number"):
            make(scale)

    @pytest.mark.parametrize("interval", [(1.0, -1.0), (1.0, 1.0), (math.nan, 1.0)])
    def test_empty_interval_is_refused(self, make, interval):
        with pytest.raises(ValueError, match="empty"):
            make(2.0, interval)

    def test_guidance_keeps_the_latents_dtype(self, make):
        def same(z, gamma, labels):
            return z

        assert make(2.0)(same)(latent().float(), GAMMA, LABELS).dtype == torch.float32


@pytest.mark.parametrize("guidance", [ClassifierFree(2.0), Classifier(logits, 2.0)])
def test_guiding_by_label_without_labels_is_refused(guidance):
    with pytest.raises(ValueError, match="guidance needs labels"):
        guidance(Recorded())(latent(), GAMMA, None)


def test_models_in_training_mode_are_refused():
    vdm = VDM(DownsamplingUNet(1, width=8, multipliers=(1, 2)), LinearSchedule())
    for guidance in (Classifier(nn.Linear(1, 1), 2.0), Autoguidance(vdm, 2.0)):
        with pytest.raises(ValueError, match=r"in training mode; call its eval\(\)"):
            guidance(Recorded())


@pytest.mark.parametrize(
    "guidance",
    [
        ClassifierFree,
        lambda scale: Classifier(logits, scale),
        lambda scale: Autoguidance(weaker, scale),
    ],
)
def test_each_example_may_have_a_scale_of_its_own(guidance):
    """Row b is what the whole batch gives at the b-th scale; also at those that switch it off."""
    scales, z = torch.tensor([0.0, 1.0, 2.5], dtype=torch.float64), latent()
    together = guidance(scales)(Recorded())(z, GAMMA, LABELS)
    for row, scale in enumerate(scales.tolist()):
        alone = guidance(scale)(Recorded())(z, GAMMA, LABELS)[row]
        torch.testing.assert_close(together[row], alone)


def test_a_scale_that_is_not_finite_is_refused_among_many_too():
    with pytest.raises(ValueError, match="not finite"):
        ClassifierFree(torch.tensor([1.0, math.nan]))
