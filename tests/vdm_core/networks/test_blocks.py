import pytest
import torch
import torch.nn.functional as F

from vdm_core.networks.blocks import (
    AttentionBlock,
    ResidualBlock,
    UNetBlock,
    conv,
    group_norm,
    linear,
)


@pytest.mark.parametrize(
    ("channels", "groups"), [(128, 32), (256, 32), (32, 8), (16, 4), (48, 4), (6, 1), (2, 1)]
)
def test_group_norm_has_32_groups_or_four_channels_in_each(channels, groups):
    norm = group_norm(channels)
    assert (norm.num_groups, norm.eps) == (groups, 1e-6)


def test_group_norm_of_bfloat16_takes_its_statistics_in_float32():
    """A mean of 100 with a spread of 1 is lost where sums are kept in bfloat16."""
    x = (100 + torch.randn(2, 32, 8, 8)).bfloat16()
    groups = x.double().view(2, 8, -1)
    mean, variance = groups.mean(-1, keepdim=True), groups.var(-1, correction=0, keepdim=True)
    expected = ((groups - mean) / (variance + 1e-6).sqrt()).view(x.shape)
    actual = group_norm(32).bfloat16()(x).double()
    torch.testing.assert_close(actual, expected, atol=0.02, rtol=0.01)


def test_weights_start_with_variance_one_over_fan_in():
    torch.manual_seed(0)
    assert conv(64, 64).weight.std().item() == pytest.approx((64 * 9) ** -0.5, rel=0.02)
    assert linear(256, 256).weight.std().item() == pytest.approx(256**-0.5, rel=0.02)
    assert conv(8, 8, zero=True).weight.abs().max() == 0


@pytest.mark.parametrize("scales", [False, True])
def test_new_blocks_are_the_identity(scales):
    h, condition = torch.randn(2, 8, 4, 4), torch.randn(2, 6)
    block = UNetBlock(8, 8, 6, attends=True, scales=scales)
    assert torch.equal(block(h, condition), h)


def test_condition_is_added_before_the_second_norm(perturbed):
    block = perturbed(ResidualBlock(8, 8, 6).double())
    h, condition = torch.randn(2, 8, 4, 4).double(), torch.randn(2, 6).double()
    branch = block.conv_1(F.silu(block.norm_1(h)))
    branch = branch + (condition @ block.condition.weight.T).reshape(2, 8, 1, 1)
    expected = h + block.conv_2(F.silu(block.norm_2(branch)))
    torch.testing.assert_close(block(h, condition), expected)


def test_condition_that_scales_multiplies_the_second_norm(perturbed):
    block = perturbed(ResidualBlock(8, 8, 6, scales=True).double())
    h, condition = torch.randn(2, 8, 4, 4).double(), torch.randn(2, 6).double()
    scale, shift = (condition @ block.condition.weight.T).reshape(2, 2, 8, 1, 1).unbind(1)
    branch = block.norm_2(block.conv_1(F.silu(block.norm_1(h)))) * (1 + scale) + shift
    torch.testing.assert_close(block(h, condition), h + block.conv_2(F.silu(branch)))


def test_attention_is_the_softmax_over_all_positions(perturbed):
    block = perturbed(AttentionBlock(8).double())
    h = torch.randn(2, 8, 3, 5).double()
    tokens = block.norm(h).reshape(2, 8, 15).mT
    query, key, value = (tokens @ block.query_key_value.weight.T).split(8, dim=2)
    bias_query, bias_key, bias_value = block.query_key_value.bias.split(8)
    scores = (query + bias_query) @ (key + bias_key).mT / 8**0.5
    mixed = scores.softmax(-1) @ (value + bias_value)
    expected = h + (mixed @ block.out.weight.T + block.out.bias).mT.reshape(2, 8, 3, 5)
    torch.testing.assert_close(block(h), expected)
