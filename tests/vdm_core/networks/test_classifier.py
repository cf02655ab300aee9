import math

import pytest
import torch

from vdm_core.networks.classifier import NoiseAwareClassifier
from vdm_core.networks.cost import flops_per_image, parameter_count


def small(**options):
    return NoiseAwareClassifier(2, **{"classes": 3, "width": 8, "multipliers": (1, 2)} | options)


def inputs(batch=3, height=6, width=5):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, 2, height, width, generator=generator)
    return z, torch.linspace(-13.3, 5, batch)


def test_a_new_classifier_has_no_opinion():
    z, gamma = inputs()
    log_p = torch.log_softmax(small()(z, gamma), dim=1)
    torch.testing.assert_close(log_p, torch.full((3, 3), -math.log(3)))


def test_gradient_reaches_every_parameter_and_the_latent(perturbed):
    classifier = perturbed(small(blocks=2))
    z, gamma = inputs()
    z.requires_grad_()
    classifier(z, gamma).square().sum().backward()
    named = [("z", z), *classifier.named_parameters()]
    assert [name for name, p in named if p.grad is None or not p.grad.any()] == []


def test_examples_do_not_mix(perturbed):
    """d log p(y_i | z_i) / d z_j is zero for i != j: one backward pass guides a whole batch."""
    classifier = perturbed(small())
    z, gamma = inputs()
    z.requires_grad_()
    gradient = torch.autograd.grad(classifier(z, gamma)[1, 2], z)[0]
    assert gradient[1].any()
    assert not gradient[[0, 2]].any()


def test_it_hears_the_noise_level(perturbed):
    classifier = perturbed(small())
    z, gamma = inputs()
    assert not torch.allclose(classifier(z, gamma), classifier(z, gamma + 1))


def test_it_learns_to_tell_bright_from_dark_through_noise():
    torch.manual_seed(0)
    classifier = NoiseAwareClassifier(1, 2, width=8, multipliers=(1, 2))
    optimizer = torch.optim.Adam(classifier.parameters(), lr=3e-3)
    labels, gamma = torch.arange(32) % 2, torch.full((32,), 0.0)
    for _ in range(40):
        z = torch.randn(32, 1, 8, 8) + (2 * labels - 1)[:, None, None, None]
        loss = torch.nn.functional.cross_entropy(classifier(z, gamma), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.25


def test_low_precision_stays_near_float32_and_answers_in_float32(perturbed):
    classifier = perturbed(small(width=32))
    z, gamma = inputs()
    exact = classifier(z, gamma)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = classifier(z, gamma)
    for low in (autocast, classifier.bfloat16()(z, gamma)):
        assert low.dtype == torch.float32
        assert (low - exact).square().mean() < 1e-3 * exact.square().mean()


def test_memory_format_changes_no_number(perturbed):
    classifier = perturbed(small())
    z, gamma = inputs()
    again = classifier(z.to(memory_format=torch.channels_last), gamma)
    torch.testing.assert_close(again, classifier(z, gamma))


def test_classifier_traces_as_one_graph(perturbed):
    classifier = perturbed(small())
    traced = torch.compile(classifier, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(traced(*inputs()), classifier(*inputs()))


def test_its_size_and_cost_can_be_told():
    classifier = NoiseAwareClassifier(1, 10)
    assert parameter_count(classifier) == pytest.approx(4.0e5, rel=0.02)
    assert flops_per_image(classifier, (1, 28, 28)) == pytest.approx(7.9e7, rel=0.01)


@pytest.mark.parametrize("options", [{"classes": 1}, {"multipliers": ()}, {"blocks": 0}])
def test_empty_classifiers_are_refused(options):
    with pytest.raises(ValueError, match="give 2 classes"):
        small(**options)
