"""The streamed decoder against the full table of levels in float64, its memory and its draws."""

import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vdm_core.decoder import decode, encode, log_prob, radius
from vdm_core.diffusion import alpha_sigma, diffuse

GAMMAS = [-20.0, -16.0, -13.3, -12.7, -12.0, -10.0, -8.0, -6.0, -3.0, -1.0, 0.0]


def log_table(z_0: Tensor, gamma_0: Tensor, levels: int) -> Tensor:
    """log p(k | z_0) for all levels k in float64, (B,C,H,W,L): the definition."""
    z_0, gamma_0 = z_0.double(), gamma_0.double().reshape(-1, 1, 1, 1, 1)
    alpha_0, _ = alpha_sigma(gamma_0)
    x = (2 * torch.arange(levels, dtype=torch.float64) + 1) / levels - 1
    logits = -0.5 * torch.exp(-gamma_0) * (z_0[..., None] / alpha_0 - x).square()
    return logits.log_softmax(-1)


def table_log_prob(images: Tensor, z_0: Tensor, gamma_0: Tensor, levels: int) -> Tensor:
    table = log_table(z_0, gamma_0, levels)
    return table.gather(-1, images.long()[..., None]).flatten(1).sum(1)


def draw(
    gamma_0: float,
    levels: int = 256,
    shape: tuple[int, ...] = (4, 3, 8, 8),
    dtype: torch.dtype = torch.float32,
) -> tuple[Tensor, Tensor, Tensor]:
    """Images with many levels at both ends, z_0 from the model, and gamma_0."""
    generator = torch.Generator().manual_seed(0)
    k = torch.randint(-levels // 4, levels + levels // 4, shape, generator=generator)
    images = k.clamp(0, levels - 1).to(torch.uint8)
    noise = torch.randn(shape, generator=generator, dtype=dtype)
    gamma = torch.tensor([gamma_0], dtype=dtype)
    return images, diffuse(encode(images, levels, dtype), gamma, noise).z, gamma


def value_and_gradients(
    function: Callable[[Tensor, Tensor, Tensor, int], Tensor],
    images: Tensor,
    z_0: Tensor,
    gamma_0: Tensor,
    levels: int,
) -> list[Tensor]:
    """log p and its gradients in z_0 and gamma_0, each example with another weight, in float64."""
    z, gamma = z_0.clone().requires_grad_(), gamma_0.clone().requires_grad_()
    value = function(images, z, gamma, levels)
    weight = torch.linspace(0.5, 2, len(images), dtype=value.dtype)
    grads = torch.autograd.grad((value * weight).sum(), (z, gamma))
    return [result.detach().double() for result in (value, *grads)]


def compare(
    images: Tensor, z_0: Tensor, gamma_0: Tensor, levels: int, rtol: float, atol: float
) -> None:
    """The streamed decoder against the table."""
    streamed = value_and_gradients(log_prob, images, z_0, gamma_0, levels)
    table = value_and_gradients(table_log_prob, images, z_0.double(), gamma_0.double(), levels)
    for got, reference in zip(streamed, table, strict=True):
        scale = max(1.0, float(reference.abs().max()))
        torch.testing.assert_close(got, reference, rtol=rtol, atol=atol * scale)


@pytest.mark.parametrize("gamma_0", GAMMAS)
def test_float32_matches_the_full_table_with_gradients_at_every_gamma_0(gamma_0: float) -> None:
    compare(*draw(gamma_0), levels=256, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("gamma_0", GAMMAS)
def test_float64_matches_the_full_table_with_gradients_at_every_gamma_0(gamma_0: float) -> None:
    compare(*draw(gamma_0, dtype=torch.float64), levels=256, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("levels", [2, 3, 7, 16, 255])
@pytest.mark.parametrize("gamma_0", [-13.3, -6.0, -2.0, 0.0])
def test_any_number_of_levels(levels: int, gamma_0: float) -> None:
    compare(*draw(gamma_0, levels, dtype=torch.float64), levels=levels, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_any_number_of_channels_each_counted_once(channels: int) -> None:
    compare(*draw(-11.0, shape=(2, channels, 5, 6)), levels=256, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("gamma_0", [-20.0, -13.3, -9.0])
def test_a_z_0_far_from_the_image_or_outside_the_data_is_still_right(gamma_0: float) -> None:
    """Offsets of many levels, and z_0 beyond the last level on both sides."""
    images, _, gamma = draw(gamma_0, shape=(2, 1, 8, 8))
    z_0 = torch.linspace(-3, 3, 128).reshape(images.shape)
    compare(images, z_0, gamma, levels=256, rtol=2e-6, atol=2e-6)


@pytest.mark.parametrize("gamma_0", [-20.0, -16.0, -13.3])
def test_half_way_between_two_levels_the_error_is_below_that_of_rounding_z_0(
    gamma_0: float,
) -> None:
    """There the answer is most sensitive, and z_0 / alpha_0 by division would lose digits: the
    error must stay below the change that the last digit of z_0 itself makes."""
    gamma = torch.full((255,), gamma_0)
    alpha_0, sigma_0 = alpha_sigma(gamma.double())
    boundaries = torch.arange(1, 256, dtype=torch.float64) / 128 - 1
    z_0 = (alpha_0 * boundaries + 0.02 * sigma_0.square()).float()
    z_0 = z_0.reshape(255, 1, 1, 1)
    images = torch.arange(255, dtype=torch.uint8).reshape(z_0.shape)
    got = value_and_gradients(log_prob, images, z_0, gamma, 256)
    at, above = (
        value_and_gradients(table_log_prob, images, z.double(), gamma.double(), 256)
        for z in (z_0, z_0 + torch.finfo(torch.float32).eps * z_0.abs().clamp(min=0.1))
    )
    for value, reference, moved in zip(got, at, above, strict=True):
        allowed = (moved - reference).abs() + 3e-6 * reference.abs() + 1e-6
        assert ((value - reference).abs() <= allowed).all()


def test_one_gamma_0_per_example_is_allowed() -> None:
    images, z_0, _ = draw(-10.0)
    compare(images, z_0, torch.tensor([-14.0, -10.0, -8.0, -5.0]), 256, rtol=2e-6, atol=2e-6)


def test_gradcheck_in_float64() -> None:
    images, z_0, gamma = draw(-4.0, levels=16, shape=(2, 1, 2, 3), dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda z, g: log_prob(images, z, g, 16), (z_0.requires_grad_(), gamma.requires_grad_())
    )


@pytest.mark.parametrize(("gamma_0", "bits"), [(-13.3, 0.01045), (-12.0, 0.4183), (-10.0, 1.8336)])
def test_reconstruction_costs_the_known_bits_per_dim(gamma_0: float, bits: float) -> None:
    """Away from the first and last levels, which have neighbours on one side only."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(20, 236, (40, 3, 32, 32), generator=generator, dtype=torch.uint8)
    gamma = torch.tensor([gamma_0])
    quantiles = (torch.arange(images.numel(), dtype=torch.float64) + 0.5) / images.numel()
    noise = torch.special.ndtri(quantiles).float().reshape(images.shape)
    z_0 = diffuse(encode(images, 256), gamma, noise).z
    mean = -log_prob(images, z_0, gamma, 256).mean() / (3 * 32 * 32 * math.log(2))
    assert mean.item() == pytest.approx(bits, rel=2e-3)


def test_the_radius_is_small_where_it_can_be_and_all_levels_where_it_must() -> None:
    assert radius(-20.0, 256) == radius(-13.3, 256) == 1
    assert radius(-12.0, 256) == 2
    assert radius(-10.0, 256) == 5
    assert radius(0.0, 256) == radius(50.0, 256) == 255
    assert radius(-50.0, 2) == 1
    widths = [radius(g, 256) for g in torch.linspace(-20, 0, 500).tolist()]
    assert widths == sorted(widths)
    with pytest.raises(ValueError, match="NaN"):
        radius(math.nan, 256)


def test_a_radius_given_ahead_serves_smaller_gamma_0_and_gives_nan_for_greater() -> None:
    images, z_0, gamma = draw(-12.0)
    exact = log_prob(images, z_0, gamma, 256)
    ahead = log_prob(images, z_0, gamma, 256, within=radius(-11.0, 256))
    torch.testing.assert_close(ahead, exact, rtol=1e-6, atol=1e-6)
    for bound in torch.linspace(-14, -1, 40).tolist():
        own = log_prob(images, z_0, torch.tensor([bound]), 256, within=radius(bound, 256))
        assert own.isfinite().all()
    assert log_prob(images, z_0, gamma, 256, within=1).isnan().all()


class PeakMemory(TorchDispatchMode):
    """Counts the bytes of storage that operations make, and the most alive at one time."""

    def __init__(self) -> None:
        super().__init__()
        self.live = self.peak = 0
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        inputs = {t.untyped_storage()._cdata for t in tree_leaves(args) if isinstance(t, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                storage = leaf.untyped_storage()
                if storage._cdata not in self.known | inputs:
                    self.known.add(storage._cdata)
                    self.live += storage.nbytes()
                    weakref.finalize(storage, self.release, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.live)
        return result

    def release(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


@pytest.mark.parametrize("gamma_0", [-13.3, -8.0, 0.0])
def test_training_needs_less_than_eight_images_of_memory_at_any_gamma_0(gamma_0: float) -> None:
    images, z_0, gamma = draw(gamma_0, shape=(64, 3, 32, 32))
    z_0.requires_grad_()
    gamma.requires_grad_()
    with PeakMemory() as memory:
        log_prob(images, z_0, gamma, 256).sum().backward()
    image = z_0.numel() * 4
    assert 4 * image < memory.peak < 8 * image
    with PeakMemory() as table:
        log_table(z_0[:1], gamma, 256)
    assert table.peak > 256 * image / len(z_0)


def test_encode_puts_the_levels_symmetrically_inside_plus_minus_one() -> None:
    for levels in (2, 5, 256):
        x = encode(torch.arange(levels, dtype=torch.uint8), levels)
        assert x.dtype == torch.float32
        torch.testing.assert_close(x, -x.flip(0), rtol=0, atol=1e-7)
        assert x[-1].item() == pytest.approx(1 - 1 / levels)
        torch.testing.assert_close(x.diff(), torch.full((levels - 1,), 2 / levels))


@pytest.mark.parametrize("levels", [2, 5, 256])
def test_decode_gives_back_what_was_encoded_and_clips_what_lies_outside(levels: int) -> None:
    images = torch.arange(levels, dtype=torch.uint8).reshape(1, 1, 1, levels)
    gamma = torch.tensor([-13.3])
    z_0 = alpha_sigma(gamma)[0] * encode(images, levels)
    assert torch.equal(decode(z_0, gamma, levels), images)
    assert torch.equal(
        decode(torch.tensor([[[[-9.0, 9.0]]]]), gamma, levels),
        torch.tensor([[[[0, levels - 1]]]], dtype=torch.uint8),
    )


@pytest.mark.parametrize(("gamma_0", "levels"), [(-10.0, 256), (-13.3, 256), (-1.0, 7), (0.0, 256)])
def test_a_decoded_draw_is_the_inverse_cdf_of_the_table(gamma_0: float, levels: int) -> None:
    _, z_0, gamma = draw(gamma_0, levels, dtype=torch.float64)
    uniforms = torch.rand(
        z_0.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)
    )
    uniforms[0, 0, 0, :2] = torch.tensor([0.0, 1 - 2**-53])
    cdf = log_table(z_0, gamma, levels).exp().cumsum(-1)
    reference = (cdf <= uniforms[..., None] * cdf[..., -1:]).sum(-1).clamp(max=levels - 1)
    got = decode(z_0, gamma, levels, uniforms=uniforms)
    assert got.dtype == torch.uint8
    differs = got.long() != reference
    assert not differs.flatten()[2:].any()
