import pytest
import torch

from vdm_core.networks.cost import parameter_count
from vdm_core.networks.downsampling_unet import DownsamplingUNet


def inputs(batch=3, height=8, width=12):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, 2, height, width, generator=generator)
    return z, torch.linspace(-13.3, 5, batch), torch.arange(batch) - 1


def small(**options):
    return DownsamplingUNet(2, width=8, multipliers=(1, 2, 3), **options)


def test_new_network_predicts_the_latent_itself():
    z, gamma, labels = inputs()
    assert torch.equal(small(classes=2)(z, gamma, labels), z)


@pytest.mark.parametrize("options", [{}, {"blocks": 2, "attention_levels": 2}])
def test_gradient_reaches_every_parameter(perturbed, options):
    network = perturbed(small(classes=2, **options))
    z, gamma, labels = inputs()
    network(z, gamma, labels).square().sum().backward()
    untouched = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_default_for_28_pixels_has_about_a_million_parameters():
    assert parameter_count(DownsamplingUNet(1)) == pytest.approx(1e6, rel=0.02)


def test_attention_sits_at_the_lowest_levels():
    def attending(network):
        return [n for n, m in network.named_modules() if type(m).__name__ == "AttentionBlock"]

    assert attending(small()) == ["levels.inner.0.inner.0.inner.0.attention"]
    two = attending(small(attention_levels=2))
    assert not any(name.startswith(("levels.down", "levels.up")) for name in two)
    assert len(two) == 1 + 2 * 2


@pytest.mark.parametrize(("height", "width"), [(28, 30), (9, 8)])
def test_sizes_that_do_not_divide_are_refused_by_name(height, width):
    z, gamma, _ = inputs(height=height, width=width)
    with pytest.raises(ValueError, match=f"{height} x {width} do not divide by 4"):
        small()(z, gamma)


def test_labels_act_and_null_is_unconditional(perturbed):
    network = perturbed(small(classes=2))
    z, gamma, labels = inputs()
    prediction = network(z, gamma, labels)
    assert torch.equal(prediction[:1], network(z, gamma)[:1])
    assert not torch.allclose(prediction[1:], network(z, gamma)[1:])
    with pytest.raises(ValueError, match="label 2 is none of 2"):
        network(z, gamma, labels + 1)


def test_low_precision_stays_near_float32_and_answers_in_float32(perturbed):
    network = perturbed(DownsamplingUNet(2, width=32))
    z, gamma, _ = inputs()
    exact = network(z, gamma)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = network(z, gamma)
    for low in (autocast, network.bfloat16()(z, gamma)):
        assert low.dtype == torch.float32
        assert (low - exact).square().mean() < 1e-3 * (exact - z).square().mean()


def test_fourier_features_can_be_left_out(perturbed):
    network = perturbed(small(fourier_features=False))
    z, gamma, _ = inputs()
    assert network.conv_in.in_channels == 2
    assert network(z, gamma).shape == z.shape


@pytest.mark.parametrize("options", [{"multipliers": ()}, {"blocks": 0}])
def test_empty_networks_are_refused(options):
    with pytest.raises(ValueError, match="multipliers"):
        DownsamplingUNet(1, **options)
