import pytest
import torch
import torch.nn.functional as F

from vdm_core.networks.cost import flops_per_image, parameter_count
from vdm_core.networks.dit import DiT, position_code


def small(**options):
    return DiT(2, **{"width": 24, "depth": 2, "heads": 3, "patch": 2} | options)


def inputs(batch=3, height=4, width=6):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(batch, 2, height, width, generator=generator)
    return z, torch.linspace(-13.3, 5, batch), torch.arange(batch) - 1


def test_new_network_predicts_the_latent_itself():
    z, gamma, labels = inputs()
    assert torch.equal(small(classes=2)(z, gamma, labels), z)


def test_a_block_is_the_papers(perturbed):
    """Peebles and Xie 2023, figure 3 (right): written out in float64, head by head."""
    network = perturbed(small().double())
    block = network.blocks[0]
    generator = torch.Generator().manual_seed(3)
    tokens, condition = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in [(5, 24), (24,)]
    )
    weights = (block.condition.weight @ condition + block.condition.bias).split(24)
    shift_1, scale_1, gate_1, shift_2, scale_2, gate_2 = weights

    def norm(h):
        return (h - h.mean(1, True)) / (h.var(1, correction=0, keepdim=True) + 1e-6).sqrt()

    attention = block.attention
    q, k, v = attention.query_key_value(norm(tokens) * (1 + scale_1) + shift_1).split(24, 1)
    mixed = [
        torch.softmax(q[:, head] @ k[:, head].T / 8**0.5, dim=1) @ v[:, head]
        for head in (slice(0, 8), slice(8, 16), slice(16, 24))
    ]
    h = tokens + gate_1 * attention.out(torch.cat(mixed, dim=1))
    first, _, second = block.mlp
    branch = second(F.gelu(first(norm(h) * (1 + scale_2) + shift_2), approximate="tanh"))
    expected = h + gate_2 * branch
    torch.testing.assert_close(block(tokens[None], condition[None])[0], expected)


def test_patches_go_out_where_they_came_in():
    """With weights that copy a patch, each output patch depends on its own input patch alone."""
    network = small(fourier_features=False)
    with torch.no_grad():
        network.patches_in.weight.normal_()
        network.patches_out.weight.normal_()
    z, gamma, _ = inputs()
    z.requires_grad_()
    gradient = torch.autograd.grad((network(z, gamma) - z)[0, 0, 2, 4], z)[0][0]
    touched = gradient.abs().sum(0) > 0
    assert touched.nonzero().tolist() == [[2, 4], [2, 5], [3, 4], [3, 5]]


def test_every_cell_has_a_code_of_its_own_made_of_its_row_and_its_column():
    code = position_code(3, 5, 16, torch.device("cpu")).view(3, 5, 16)
    assert torch.cdist(code.flatten(0, 1), code.flatten(0, 1)).fill_diagonal_(9).min() > 0.5
    assert torch.equal(code[1, :, :8], code[1, :1, :8].expand(5, -1))
    assert torch.equal(code[:, 4, 8:], code[:1, 4, 8:].expand(3, -1))
    torch.testing.assert_close(code[2, 4, 8:12], torch.sin(4 * 10.0 ** -torch.arange(4.0)))


def test_the_paper_s_small_network_has_its_size():
    """DiT-S/2 at 32 x 32 x 4 costs 6.06 Gflop (multiply-adds) in the paper, and 33 M parameters."""
    with torch.device("meta"):
        network = DiT(4, width=384, depth=12, heads=6, classes=1000, fourier_features=False)
    assert parameter_count(network) / 1e6 == pytest.approx(33, rel=0.02)
    assert flops_per_image(network, (4, 32, 32)) / 2e9 == pytest.approx(6.06, rel=0.02)


def test_gradient_reaches_every_parameter(perturbed):
    network = perturbed(small(classes=2))
    z, gamma, labels = inputs()
    network(z, gamma, labels).square().sum().backward()
    untouched = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert untouched == []


def test_labels_act_and_null_is_unconditional(perturbed):
    network = perturbed(small(classes=2))
    z, gamma, labels = inputs()
    prediction = network(z, gamma, labels)
    torch.testing.assert_close(prediction[:1], network(z, gamma)[:1])
    assert not torch.allclose(prediction[1:], network(z, gamma)[1:])
    assert not torch.allclose(prediction, network(z, gamma + 0.1, labels))


def test_any_size_that_the_patch_divides_is_taken(perturbed):
    network = perturbed(small())
    for height, width in [(2, 2), (8, 4), (10, 6)]:
        z, gamma, _ = inputs(height=height, width=width)
        assert network(z, gamma).shape == z.shape
    z, gamma, _ = inputs(height=4, width=7)
    with pytest.raises(ValueError, match="4 x 7 do not divide into patches of 2 x 2"):
        network(z, gamma)


def test_low_precision_stays_near_float32_and_answers_in_float32(perturbed):
    network = perturbed(small(width=48))
    z, gamma, _ = inputs()
    exact = network(z, gamma)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        autocast = network(z, gamma)
    for low in (autocast, network.bfloat16()(z, gamma)):
        assert low.dtype == torch.float32
        assert (low - exact).square().mean() < 1e-3 * (exact - z).square().mean()


def test_memory_format_changes_no_number(perturbed):
    network = perturbed(small())
    z, gamma, _ = inputs()
    again = network(z.to(memory_format=torch.channels_last), gamma)
    torch.testing.assert_close(again, network(z, gamma))


def test_network_traces_as_one_graph(perturbed):
    network = perturbed(small(classes=2))
    z, gamma, labels = inputs()
    traced = torch.compile(network, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(traced(z, gamma, labels), network(z, gamma, labels))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth 0"),
        ({"patch": 0}, "patch 0"),
        ({"width": 20}, "width is 20"),
        ({"width": 8}, "width is 8"),
        ({"heads": 5}, r"heads \(5\)"),
    ],
)
def test_impossible_sizes_are_refused_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options)
