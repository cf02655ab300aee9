"""A VDM of a VAE's latents: its bound on known data, its phases, its samples."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from vdm_core import VDM, AdaptiveSchedule, ClassifierFree, DownsamplingUNet, LinearSchedule
from vdm_core.diffusion import alpha_sigma
from vdm_core.family import keyed_draws
from vdm_core.ladder import VAE
from vdm_core.ladder.gaussian import Gaussian
from vdm_core.latent_vdm import LatentVDM, latent_terms, sample_latent_vdm
from vdm_core.rng import Purpose
from vdm_core.samplers import sample_z_0

SHAPE = (1, 8, 8)


class LinearDenoiser(nn.Module):
    """The optimal epsilon_hat for y ~ N(0, 1), sigma z, plus an error."""

    def __init__(self, error: float) -> None:
        super().__init__()
        self.error = error

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        _, sigma = alpha_sigma(gamma, like=z)
        return (1 + self.error) * sigma * z


def expected_bound(mean_scale: float, std_scale: float, error: float, steps: int | None) -> float:
    """E over x of the bound for y ~ N(0, 1), p(x | y) = N(w y, s^2), in closed form or exact sums.

    q(y | x) is the true posterior with its mean and standard deviation scaled. All terms are
    quadratic in (x, noises), so that sigma points are enough; times by Gauss-Legendre, or all T.
    """
    w, s = 0.8, 0.5
    spread = math.sqrt(w**2 + s**2)
    axes = math.sqrt(3) * torch.eye(3, dtype=torch.float64)
    x, e_encoder, e = torch.cat([axes, -axes]).T.reshape(3, 6, 1, 1, 1)
    x = spread * x
    std = s / spread * std_scale
    q = Gaussian(mean_scale * w * x / spread**2, torch.full_like(x, math.log(std)))
    y = q.sample(e_encoder)
    nll = -Gaussian(w * y, torch.full_like(x, math.log(s))).log_prob(x)
    vdm = VDM(LinearDenoiser(error), LinearSchedule(-30.0, 30.0), steps=steps).double()
    if steps is None:
        nodes, weights = (torch.from_numpy(a) / 2 for a in np.polynomial.legendre.leggauss(400))
        nodes = nodes + 0.5
    else:
        nodes = (torch.arange(steps, dtype=torch.float64) + 0.5) / steps
        weights = torch.full_like(nodes, 1 / steps)
    total = 0.0
    with torch.no_grad():
        for time, weight in zip(nodes, weights, strict=True):
            terms = latent_terms(vdm, nll, q, y, None, time.expand(6), e)
            total += weight.item() * terms.total.mean().item()
    return total


ENTROPY = 0.5 * math.log(math.tau * math.e * (0.8**2 + 0.5**2))


def test_the_bound_is_the_entropy_of_linear_gaussian_data_where_all_is_exact() -> None:
    """Five terms, two of them densities that run to +-15 nats, and the sum is -E log p(x)."""
    assert expected_bound(1.0, 1.0, 0.0, None) == pytest.approx(ENTROPY, abs=1e-6)


@pytest.mark.parametrize(
    "wrong", [(1.1, 1.0, 0.0, None), (1.0, 0.8, 0.0, None), (1.0, 1.0, 0.05, None), (1, 1, 0, 50)]
)
def test_the_bound_is_above_the_entropy_where_anything_is_not(
    wrong: tuple[float, float, float, int | None],
) -> None:
    """A shifted or narrowed encoder, a worse denoiser, or few steps."""
    assert expected_bound(*wrong) > ENTROPY + 1e-3


@pytest.fixture
def model(perturbed: Callable[[nn.Module], nn.Module]) -> LatentVDM:
    """A latent VDM of 8 x 8 images with 3 classes, none of whose weights is zero."""
    vae = VAE(1, latent_channels=2, widths=(8, 8), blocks=1, classes=3)
    network = DownsamplingUNet(2, width=8, multipliers=(1, 2), classes=3, fourier_features=False)
    latent = LatentVDM(vae, VDM(network, LinearSchedule(-8.0, 5.0)))
    schedule = latent.vdm.schedule.state_dict()
    schedule = {name: value.clone() for name, value in schedule.items()}
    perturbed(latent)
    latent.vdm.schedule.load_state_dict(schedule)
    return latent


def batch() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, *SHAPE), dtype=torch.uint8, generator=generator)
    return images, torch.tensor([0, 1, 2, -1])


def keyed(model: LatentVDM) -> dict[str, Tensor]:
    return keyed_draws(model.draws(SHAPE), 0, torch.arange(4), 4)


def test_draws_are_declared_with_latent_shapes(model: LatentVDM) -> None:
    draws = model.draws(SHAPE)
    assert {name: draw.purpose for name, draw in draws.items()} == {
        "noise_encoder": Purpose.ENCODER,
        "times": Purpose.TIMES,
        "noise": Purpose.NOISE,
    }
    assert draws["noise"].shape == draws["noise_encoder"].shape == (2, 4, 4)


def test_in_the_second_phase_the_vae_is_as_it_is(model: LatentVDM) -> None:
    images, labels = batch()
    terms = model(images, labels, **keyed(model))
    assert tuple(terms.named()) == model.term_names
    assert all(term.shape == (4,) and term.isfinite().all() for term in terms)
    terms.bits_per_dim(64).mean().backward()
    assert all(p.grad is None and not p.requires_grad for p in model.vae.parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.vdm.parameters())


def test_jointly_trained_all_parameters_get_gradients_and_the_terms_are_the_same(
    model: LatentVDM,
) -> None:
    images, labels = batch()
    frozen = model(images, labels, **keyed(model))
    joint = LatentVDM(model.vae, model.vdm, joint=True)
    terms = joint(images, labels, **keyed(model))
    for name, term in terms.named().items():
        assert torch.equal(term, frozen.named()[name])
    terms.bits_per_dim(64).mean().backward()
    for name, parameter in joint.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_reconstruction_is_the_vaes_and_the_rest_is_the_vdms(model: LatentVDM) -> None:
    images, labels = batch()
    draws = keyed(model)
    terms = model(images, labels, **draws)
    alone = model.vae(images, labels, noise_encoder=draws["noise_encoder"])
    assert torch.equal(terms.reconstruction, alone.reconstruction)
    q = model.vae.encode(images, labels)
    entropy = q.log_std.flatten(1).sum(1) + 32 * 0.5 * math.log(math.tau * math.e)
    torch.testing.assert_close(terms.encoder, -entropy)
    latent = 32 * 0.5 * (math.log(math.tau * math.e) - 8.0)
    torch.testing.assert_close(terms.latent, torch.full((4,), latent))


def test_under_bf16_autocast_terms_are_float32_and_gamma_is_not_rounded(model: LatentVDM) -> None:
    images, labels = batch()
    plain = model(images, labels, **keyed(model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(images, labels, **keyed(model))
    assert torch.equal(mixed.latent, plain.latent)
    for name, term in mixed.named().items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, plain.named()[name], rtol=0.05, atol=0.5)


def draw(model: LatentVDM, ids: list[int], labels: list[int], **options: object) -> Tensor:
    arguments = {"shape": SHAPE, "steps": 3, **options}
    return sample_latent_vdm(model, torch.tensor(ids), torch.tensor(labels), **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "options", [{}, {"decode": "sample"}, {"sampler": "heun"}, {"guidance": ClassifierFree(2.0)}]
)
def test_a_sample_depends_on_its_own_id_and_label_alone(
    model: LatentVDM, options: dict[str, object]
) -> None:
    model.double()
    together = draw(model, [7, 3, 11], [0, 1, 2], **options)
    assert together.shape == (3, *SHAPE)
    assert together.dtype == torch.uint8
    assert torch.equal(draw(model, [11, 7], [2, 0], **options), together[[2, 0]])
    assert not torch.equal(draw(model, [7, 3, 11], [0, 1, 2], seed=1, **options), together)


def test_samples_are_the_vaes_image_of_the_vdms_latents(model: LatentVDM) -> None:
    ids, labels = torch.tensor([4, 9]), torch.tensor([1, 0])
    z_0, gamma_0 = sample_z_0(model.vdm, ids, labels, shape=(2, 4, 4), steps=3)
    y = z_0 * math.sqrt(1 + math.exp(gamma_0.item()))
    with torch.no_grad():
        expected = model.vae.decode(y, labels).decode(256)
    assert torch.equal(draw(model, [4, 9], [1, 0]), expected)


def test_what_does_not_fit_is_refused(model: LatentVDM) -> None:
    images, labels = batch()
    for change, message in (
        ({"noise": torch.zeros(4, 1, 8, 8)}, "noise has shape"),
        ({"noise_encoder": torch.zeros(4, 1, 8, 8)}, "noise_encoder has shape"),
        ({"times": torch.full((4,), 2.0)}, "inside \\[0, 1\\]"),
    ):
        with pytest.raises(ValueError, match=message):
            model(images, labels, **{**keyed(model), **change})
    with pytest.raises(ValueError, match="decode is 'mean'"):
        draw(model, [0], [0], decode="mean")
    adaptive = VDM(nn.Conv2d(2, 2, 1), AdaptiveSchedule((2, 4, 4), latent_dim=2, width=4))
    with pytest.raises(ValueError, match="AdaptiveSchedule"):
        LatentVDM(model.vae, adaptive)
