"""Averages of parameters: the recursion, the ramp of the decay, shards and types."""

import pytest
import torch

from vdm_core.ema import ema_decay, ema_start, ema_update


def test_averages_follow_the_recursion_in_place_and_leave_the_values_alone() -> None:
    values = [torch.randn(3, 4, requires_grad=True), torch.randn(5)]
    averages = ema_start(values)
    assert all(not a.requires_grad and a is not v for a, v in zip(averages, values, strict=True))
    expected = [a.double().clone() for a in averages]
    kept, copies = [id(a) for a in averages], []
    for _ in range(20):
        new = [torch.randn_like(v) for v in values]
        copies = [v.clone() for v in new]
        ema_update(averages, new, 0.9)
        expected = [0.9 * e + 0.1 * v.double() for e, v in zip(expected, new, strict=True)]
        assert all(torch.equal(v, c) for v, c in zip(new, copies, strict=True))
    assert [id(a) for a in averages] == kept
    for average, reference in zip(averages, expected, strict=True):
        torch.testing.assert_close(average.double(), reference, rtol=1e-5, atol=1e-6)


def test_bf16_values_are_averaged_in_float32() -> None:
    """In bf16 a decay of 0.9999 would never move the average."""
    averages = ema_start([torch.zeros(4, dtype=torch.bfloat16)])
    assert averages[0].dtype == torch.float32
    for _ in range(100):
        ema_update(averages, [torch.ones(4, dtype=torch.bfloat16)], 0.9999)
    torch.testing.assert_close(averages[0], torch.full((4,), 1 - 0.9999**100), rtol=1e-4, atol=0)


def test_averaging_shards_is_averaging_the_whole() -> None:
    start, value = torch.randn(10), torch.randn(10)
    whole, shards = ema_start([start]), ema_start([start[:3], start[3:]])
    ema_update(whole, [value], 0.7)
    ema_update(shards, [value[:3], value[3:]], 0.7)
    assert torch.equal(torch.cat(shards), whole[0])
    ema_update([], [], 0.7)


def test_the_decay_ramps_up_to_its_limit() -> None:
    decays = [ema_decay(step, 0.9999) for step in range(200_000)]
    assert decays[0] == pytest.approx(0.1)
    assert decays[90] == pytest.approx(0.91)
    assert decays == sorted(decays)
    assert decays[-1] == 0.9999


def test_lists_that_do_not_match_and_decays_out_of_range_are_errors() -> None:
    with pytest.raises(ValueError, match="shorter"):
        ema_update(ema_start([torch.zeros(2)]), [], 0.9)
    with pytest.raises(ValueError, match="average 0"):
        ema_update(ema_start([torch.zeros(2)]), [torch.zeros(1)], 0.9)
    for step, decay in ((0, 1.0), (-1, 0.9), (0, -0.1)):
        with pytest.raises(ValueError, match="decay"):
            ema_decay(step, decay)
