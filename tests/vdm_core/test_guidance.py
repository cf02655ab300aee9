import math

import pytest
import torch

from vdm_core import ClassifierFree, DownsamplingUNet

GAMMA = torch.tensor([-13.0, -2.0, 4.0])
LABELS = torch.tensor([0, 2, 1])


class Recorded:
    """A denoiser whose answer tells z, gamma and label apart, and which keeps its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, z, gamma, labels):
        self.calls.append(labels)
        return z * (2.0 + labels.double())[:, None, None, None] + gamma[:, None, None, None]


def latent():
    return torch.randn(3, 1, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def conditional(z):
    return Recorded()(z, GAMMA, LABELS)


def unconditional(z):
    return Recorded()(z, GAMMA, torch.full((3,), -1))


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
def test_outside_its_interval_the_model_is_plainly_conditional(scale):
    z = latent()
    guided = ClassifierFree(scale, gamma_interval=(-5.0, 0.0))(Recorded())(z, GAMMA, LABELS)
    inside = scale * conditional(z) + (1 - scale) * unconditional(z)
    torch.testing.assert_close(guided[1], inside[1])
    torch.testing.assert_close(guided[[0, 2]], conditional(z)[[0, 2]])


def test_rows_without_a_label_stay_unconditional_at_any_weight():
    z, labels = latent(), torch.full((3,), -1)
    guided = ClassifierFree(4.0)(Recorded())(z, GAMMA, labels)
    torch.testing.assert_close(guided, unconditional(z))


def test_one_batch_of_a_network_equals_two(perturbed):
    network = perturbed(DownsamplingUNet(1, width=8, multipliers=(1, 2), classes=3).double())
    z = latent()
    separate = 2.0 * network(z, GAMMA.double(), LABELS) - network(z, GAMMA.double(), None)
    guided = ClassifierFree(2.0)(network)(z, GAMMA.double(), LABELS)
    torch.testing.assert_close(guided, separate)


def test_guidance_keeps_the_latents_dtype():
    z = latent().float()
    guided = ClassifierFree(2.0)(lambda z, gamma, labels: z)(z, GAMMA.double(), LABELS)
    assert guided.dtype == torch.float32


def test_guiding_without_labels_is_refused():
    with pytest.raises(ValueError, match="needs labels"):
        ClassifierFree(2.0)(Recorded())(latent(), GAMMA, None)


def test_guiding_a_network_without_classes_is_refused():
    network = DownsamplingUNet(1, width=8, multipliers=(1, 2))
    with pytest.raises(ValueError, match="no classes"):
        ClassifierFree(2.0)(network)(latent().float(), GAMMA, LABELS)


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_scales_that_are_not_finite_are_refused(scale):
    with pytest.raises(ValueError, match="finite"):
        ClassifierFree(scale)


def test_empty_interval_is_refused():
    with pytest.raises(ValueError, match="empty"):
        ClassifierFree(2.0, gamma_interval=(1.0, -1.0))
