"""The random numbers: known answers of Philox, their distribution, and what they may depend on."""

import math
from collections.abc import Callable

import pytest
import scipy.stats
import torch
from torch import Tensor

from vdm_core.rng import Purpose, normal, philox, stratified_times, uniform

ONES = 0xFFFFFFFF


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0,) * 4, (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
        ((ONES,) * 4, (ONES, ONES), (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
        (
            (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
            (0xA4093822, 0x299F31D0),
            (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
        ),
    ],
)
def test_philox_gives_the_known_answers_of_random123(
    counter: tuple[int, ...], key: tuple[int, int], answer: tuple[int, ...]
) -> None:
    words = philox(tuple(torch.tensor([word]) for word in counter), key)
    assert tuple(int(word) for word in words) == answer


def test_a_row_depends_on_its_index_alone_whatever_the_batch_and_the_shape_asked() -> None:
    indices = torch.tensor([7, 2**40 + 7, 3, 7])
    batch = normal(5, Purpose.NOISE, indices, (3, 5, 7))
    alone = normal(5, Purpose.NOISE, torch.tensor([2**40 + 7]), (3, 5, 7))
    assert torch.equal(batch[1:2], alone)
    assert torch.equal(batch[0], batch[3])
    longer = normal(5, Purpose.NOISE, indices, (200,))
    assert torch.equal(longer[:, :105], batch.flatten(1))


@pytest.mark.parametrize("draw", [uniform, normal])
def test_seed_purpose_index_and_step_each_give_other_numbers(
    draw: Callable[..., Tensor],
) -> None:
    def numbers(seed: int, purpose: Purpose, index: int, step: int) -> Tensor:
        return draw(seed, purpose, torch.tensor([index]), (64,), step=step)[0]

    draws = [
        numbers(0, Purpose.NOISE, 0, 0),
        numbers(1, Purpose.NOISE, 0, 0),
        numbers(2**32, Purpose.NOISE, 0, 0),
        numbers(0, Purpose.NOISE_0, 0, 0),
        numbers(0, Purpose.NOISE, 1, 0),
        numbers(0, Purpose.NOISE, 2**32, 0),
        numbers(0, Purpose.NOISE, 2**55, 0),
        numbers(0, Purpose.NOISE, 0, 1),
    ]
    correlation = torch.corrcoef(torch.stack(draws)) - torch.eye(len(draws))
    assert correlation.abs().max() < 0.6


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_normals_are_normal_and_uniforms_uniform_by_kolmogorov_and_smirnov(
    dtype: torch.dtype,
) -> None:
    indices = torch.arange(1000)
    noise = normal(3, Purpose.NOISE, indices, (101,), dtype=dtype)
    assert scipy.stats.kstest(noise.flatten().numpy(), "norm").pvalue > 0.01
    assert abs(noise.mean()) < 4 / math.sqrt(noise.numel())
    assert abs(noise.var() - 1) < 4 * math.sqrt(2 / noise.numel())
    neighbours = (noise[:, 1:] * noise[:, :-1]).mean(), (noise[1:] * noise[:-1]).mean()
    assert max(abs(value) for value in neighbours) < 4 / math.sqrt(noise.numel())
    u = uniform(3, Purpose.DEQUANTISE, indices, (101,), dtype=dtype)
    assert scipy.stats.kstest(u.flatten().numpy(), "uniform").pvalue > 0.01
    assert u.min() >= 0
    assert u.max() < 1


def test_float64_draws_are_the_float32_draws_with_more_digits() -> None:
    indices = torch.arange(100)
    for draw in (uniform, normal):
        single = draw(1, Purpose.NOISE, indices, (33,))
        double = draw(1, Purpose.NOISE, indices, (33,), dtype=torch.float64)
        torch.testing.assert_close(single.double(), double, rtol=1e-5, atol=2e-6)
    times = stratified_times(1, indices, 10)
    torch.testing.assert_close(
        times.double(), stratified_times(1, indices, 10, torch.float64), rtol=0, atol=2**-24
    )


def test_scalar_and_odd_shapes_keep_their_shape() -> None:
    for shape in [(), (1,), (3,), (2, 3), (1, 28, 28), (0,)]:
        assert normal(0, Purpose.NOISE, torch.arange(2), shape).shape == (2, *shape)
        assert uniform(0, Purpose.NOISE, torch.arange(2), shape).shape == (2, *shape)
    assert normal(0, Purpose.NOISE, torch.arange(0), (4,)).shape == (0, 4)


def test_torchs_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    normal(0, Purpose.NOISE, torch.arange(4), (8,))
    stratified_times(0, torch.arange(4), 4)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("batch", [1, 2, 49, 98, 103, 4096])
def test_the_times_of_a_global_batch_fill_one_stratum_each_with_one_shared_offset(
    batch: int,
) -> None:
    """B = 49, 98 and 103 are sizes at which arange(0, 1, 1/B) has B + 1 entries."""
    offsets = []
    for k in range(3):
        times = stratified_times(11, torch.arange(k * batch, (k + 1) * batch), batch, torch.float64)
        strata = times * batch - torch.arange(batch)
        assert len(times) == batch
        assert times.min() >= 0
        assert times.max() < 1
        assert (strata - strata[0]).abs().max() < batch * 2**-31
        offsets.append(float(strata[0]))
    assert len(set(offsets)) == 3


def test_times_are_the_same_however_the_global_batch_is_split_over_workers() -> None:
    indices = torch.arange(2 * 98, 3 * 98)
    whole = stratified_times(11, indices, 98)
    for workers in (2, 7):
        shares = [stratified_times(11, indices[rank::workers], 98) for rank in range(workers)]
        for rank, share in enumerate(shares):
            assert torch.equal(share, whole[rank::workers])


def test_the_offset_of_the_strata_is_uniform_over_batches() -> None:
    times = stratified_times(2, torch.arange(0, 8 * 5000, 8), 8, torch.float64)
    assert scipy.stats.kstest((times * 8).numpy(), "uniform").pvalue > 0.01


def test_arguments_out_of_range_are_errors() -> None:
    index = torch.arange(2)
    with pytest.raises(ValueError, match="seed"):
        uniform(-1, Purpose.NOISE, index)
    with pytest.raises(ValueError, match="step"):
        uniform(0, Purpose.NOISE, index, step=2**32)
    with pytest.raises(ValueError, match="int64"):
        uniform(0, Purpose.NOISE, index.float())
    with pytest.raises(ValueError, match="int64"):
        normal(0, Purpose.NOISE, index[None])
    with pytest.raises(ValueError, match="indices"):
        normal(0, Purpose.NOISE, index - 1)
    with pytest.raises(TypeError, match="float32"):
        normal(0, Purpose.NOISE, index, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="global_batch"):
        stratified_times(0, index, 0)


@pytest.mark.parametrize("draw", [uniform, normal])
def test_a_seed_for_each_index_gives_each_row_the_numbers_of_its_own_seed(
    draw: Callable[..., Tensor],
) -> None:
    seeds, indices = torch.tensor([3, 2**40 + 1, 2**63 - 1]), torch.tensor([5, 5, 2**50])
    rows = draw(seeds, Purpose.SAMPLE_STEP, indices, (3, 5), step=2)
    for row, seed, index in zip(rows, seeds.tolist(), indices, strict=True):
        assert torch.equal(row, draw(seed, Purpose.SAMPLE_STEP, index[None], (3, 5), step=2)[0])


def test_a_step_for_each_index_gives_each_row_the_numbers_of_its_own_step() -> None:
    steps, indices = torch.tensor([0, 2**32 - 1, 7]), torch.tensor([5, 5, 2**50])
    rows = normal(3, Purpose.SAMPLE_STEP, indices, (3, 5), step=steps)
    for row, step, index in zip(rows, steps.tolist(), indices, strict=True):
        assert torch.equal(row, normal(3, Purpose.SAMPLE_STEP, index[None], (3, 5), step=step)[0])
    with pytest.raises(ValueError, match="step holds numbers outside"):
        normal(3, Purpose.SAMPLE_STEP, indices, (3, 5), step=steps + 1)


@pytest.mark.parametrize(
    "seeds", [torch.tensor([1]), torch.tensor([1.0, 2.0]), torch.tensor([1, -1])]
)
def test_seeds_of_another_number_type_or_sign_are_refused(seeds: Tensor) -> None:
    with pytest.raises(ValueError, match="seed"):
        normal(seeds, Purpose.NOISE, torch.tensor([0, 1]), (2,))
