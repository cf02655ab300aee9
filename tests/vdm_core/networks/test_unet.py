import copy

import pytest
import torch
import torch.nn.functional as F

from vdm_core.networks.conditioning import embed_gamma
from vdm_core.networks.cost import flops_per_image, parameter_count
from vdm_core.networks.fourier import with_fourier_features
from vdm_core.networks.unet import UNet


def on_meta(**options):
    with torch.device("meta"):
        return UNet(3, **options)


@pytest.mark.parametrize(
    ("options", "count"),
    [
        ({"extra_scalar": True}, 30_578_179),
        ({}, 30_578_179 - 512),
        ({"classes": 10}, 30_578_179 - 512 + 10 * 512),
    ],
    ids=["reference", "plain", "ten classes"],
)
def test_cifar10_network_has_the_reference_number_of_parameters(options, count):
    assert parameter_count(on_meta(**options)) == count


def test_cifar10_network_costs_what_the_reference_does():
    assert flops_per_image(on_meta(extra_scalar=True), (3, 32, 32)) / 1e9 == pytest.approx(
        53.4, abs=0.05
    )


def test_attention_everywhere_adds_one_to_each_block():
    options = {"width": 8, "blocks": 2}
    plain = parameter_count(on_meta(**options))
    added = parameter_count(on_meta(**options, attention_everywhere=True)) - plain
    assert added == (2 + 3) * (2 * 8 + 4 * (8 * 8 + 8))


def inputs(batch=3, channels=2):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, channels, 4, 6, generator=generator)
    return z, torch.linspace(-13.3, 5, batch), torch.arange(batch) - 1


def test_new_network_predicts_the_latent_itself():
    z, gamma, labels = inputs()
    assert torch.equal(UNet(2, width=8, blocks=2, classes=2)(z, gamma, labels), z)


def test_wiring_is_the_reference_networks(perturbed):
    """Skips pair off from the inside out, each joined behind the current features."""
    network = perturbed(UNet(2, width=8, blocks=2).double())
    z, gamma, _ = inputs()
    z = z.double()
    embedded = F.silu(network.conditioning.dense_0(embed_gamma(gamma.double(), 8)))
    condition = F.silu(network.conditioning.dense_1(embedded))
    h0 = network.conv_in(with_fourier_features(z))
    h1 = network.down[0].residual(h0, condition)
    h2 = network.down[1].residual(h1, condition)
    h = network.middle[0].residual(h2, condition)
    h = network.middle[1].residual(network.middle[0].attention(h), condition)
    for block, skip in zip(network.up, (h2, h1, h0), strict=True):
        h = block.residual(torch.cat([h, skip], dim=1), condition)
    expected = z + network.conv_out(F.silu(network.norm_out(h)))
    torch.testing.assert_close(network(z, gamma.double()), expected)


def test_gradient_reaches_every_parameter(perturbed):
    network = perturbed(UNet(2, width=8, blocks=2, classes=2, attention_everywhere=True))
    z, gamma, labels = inputs()
    network(z, gamma, labels).square().sum().backward()
    untouched = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_labels_and_gamma_change_the_prediction(perturbed):
    network = perturbed(UNet(2, width=8, blocks=1, classes=2))
    z, gamma, labels = inputs()
    prediction = network(z, gamma, labels)
    assert torch.equal(prediction[:1], network(z, gamma)[:1])
    assert not torch.allclose(prediction[1:], network(z, gamma)[1:])
    assert not torch.allclose(prediction, network(z, gamma + 0.1, labels))


def test_unconditional_network_refuses_a_label():
    z, gamma, labels = inputs()
    network = UNet(2, width=8, blocks=1)
    assert torch.equal(network(z, gamma, torch.full_like(labels, -1)), network(z, gamma))
    with pytest.raises(ValueError, match="no classes"):
        network(z, gamma, labels)


def test_recomputing_changes_memory_and_no_number(perturbed):
    network = perturbed(UNet(2, width=8, blocks=2))
    again = copy.deepcopy(network)
    again.recompute = True
    z, gamma, _ = inputs()
    for each in (network, again):
        each(z, gamma).square().sum().backward()
    for p, q in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(p.grad, q.grad)


def test_low_precision_stays_near_float32_and_answers_in_float32(perturbed):
    """Under autocast, and with weights cast to bfloat16 as an engine does."""
    network = perturbed(UNet(2, width=32, blocks=2))
    z, gamma, _ = inputs()
    exact = network(z, gamma)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = network(z, gamma)
    cast = network.bfloat16()(z, gamma)
    for low in (autocast, cast):
        assert low.dtype == torch.float32
        assert (low - exact).square().mean() < 1e-3 * (exact - z).square().mean()


def test_parameters_are_what_sharded_training_can_take():
    """No scalars (0-d) and nothing but contiguous memory."""
    network = UNet(2, width=8, blocks=1, classes=2)
    assert all(p.ndim > 0 and p.is_contiguous() for p in network.parameters())


def test_network_traces_as_one_graph(perturbed):
    network = perturbed(UNet(2, width=8, blocks=1, classes=2))
    z, gamma, labels = inputs()
    traced = torch.compile(network, backend="eager", fullgraph=True)
    torch.testing.assert_close(traced(z, gamma, labels), network(z, gamma, labels))


def test_no_blocks_are_refused():
    with pytest.raises(ValueError, match="blocks is 0"):
        UNet(3, blocks=0)
