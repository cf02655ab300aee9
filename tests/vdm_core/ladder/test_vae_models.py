"""The VAEs as modules: what each conditional sees, draws, precision, labels, errors, samples."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from vdm_core.family import Draw, keyed_draws
from vdm_core.ladder import VAE, HierarchicalVAE, sample_vae
from vdm_core.ladder.bound import free_bits
from vdm_core.ladder.pixels import PixelLikelihood
from vdm_core.rng import Purpose, normal

MODELS: dict[str, Callable[..., VAE | HierarchicalVAE]] = {
    "vae": VAE,
    "hierarchical": HierarchicalVAE,
    "markovian": lambda *a, **k: HierarchicalVAE(*a, markovian=True, **k),
}


@pytest.fixture(params=MODELS)
def model(
    request: pytest.FixtureRequest, perturbed: Callable[[nn.Module], nn.Module]
) -> VAE | HierarchicalVAE:
    """A model of 3-channel images with 10 classes, none of whose weights is zero."""
    made = MODELS[request.param](3, latent_channels=2, widths=(8, 8), blocks=1, classes=10)
    assert isinstance(perturbed(made), (VAE, HierarchicalVAE))
    return made


def batch(size: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (size, 3, 8, 4), dtype=torch.uint8, generator=generator)
    return images, torch.arange(size) - 1


def keyed(model: VAE | HierarchicalVAE, size: int = 4) -> dict[str, Tensor]:
    return keyed_draws(model.draws((3, 8, 4)), 0, torch.arange(size), size)


def test_draws_are_declared_and_keyed_by_index(model: VAE | HierarchicalVAE) -> None:
    (draw,) = model.draws((3, 8, 4)).values()
    assert draw == Draw(Purpose.ENCODER, model.latent_shape((3, 8, 4)))
    expected = normal(7, Purpose.ENCODER, torch.tensor([5]), draw.shape)
    drawn = keyed_draws(model.draws((3, 8, 4)), 7, torch.tensor([5]), 16)
    assert torch.equal(drawn["noise_encoder"], expected)


def test_terms_are_finite_and_every_parameter_gets_a_gradient(
    model: VAE | HierarchicalVAE,
) -> None:
    images, labels = batch()
    terms = model(images, labels, **keyed(model))
    assert tuple(terms.named()) == model.term_names
    terms.bits_per_dim(96).mean().backward()
    for name, parameter in model.named_parameters():
        assert parameter.ndim > 0, name
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_gradients_are_those_of_finite_differences(vae: VAE, images: Tensor) -> None:
    """Also through the decoder's variance, which the VDM's own decoder shares over all pixels."""
    noise = torch.randn(4, 1, 1, 1, dtype=torch.float64)

    def loss() -> Tensor:
        total: Tensor = vae(images, noise_encoder=noise).total
        return total.sum()

    loss().backward()
    for parameter in (vae.likelihood.exit.conv.bias, vae.posterior.exit.conv.bias):
        for place in range(len(parameter)):
            with torch.no_grad():
                parameter[place] += 1e-5
                above = loss()
                parameter[place] -= 2e-5
                below = loss()
                parameter[place] += 1e-5
            expected = (above - below) / 2e-5
            torch.testing.assert_close(parameter.grad[place], expected, rtol=1e-5, atol=1e-5)


def test_at_first_the_posterior_is_the_prior() -> None:
    images, labels = batch()
    for make in MODELS.values():
        model = make(3, latent_channels=2, widths=(8, 8), blocks=1, classes=10)
        _, *kls = model(images, labels, **keyed(model)).named().values()
        assert not torch.stack(kls).any()


def test_an_example_has_the_same_terms_alone_and_in_a_batch(model: VAE | HierarchicalVAE) -> None:
    images, labels = batch()
    model.double()
    together = model(images, labels, **keyed(model)).total
    draws = {name: draw[2:3] for name, draw in keyed(model).items()}
    torch.testing.assert_close(model(images[2:3], labels[2:3], **draws).total, together[2:3])


def test_under_bf16_autocast_terms_are_float32_and_near(model: VAE | HierarchicalVAE) -> None:
    images, labels = batch()
    plain = model(images, labels, **keyed(model))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = model(images, labels, **keyed(model))
    for name, term in mixed.named().items():
        assert term.dtype == torch.float32
        torch.testing.assert_close(term, plain.named()[name], rtol=0.05, atol=0.5)


def test_labels_matter_and_no_label_is_minus_one(model: VAE | HierarchicalVAE) -> None:
    images, labels = batch()
    draws = keyed(model)
    by_label = model(images, labels, **draws).total
    without = model(images, **draws).total
    torch.testing.assert_close(by_label[0], without[0])
    assert (by_label[1:] != without[1:]).all()


def seen_by(model: HierarchicalVAE) -> list[int]:
    """How many latents each conditional and the image's likelihood were shown, from z_T on."""
    counts: list[int] = []
    nets = [*model.priors, model.likelihood]
    hooks = [
        net.register_forward_pre_hook(lambda _, inputs: counts.append(inputs[0].shape[1] // 2))
        for net in nets
    ]
    images, labels = batch()
    model(images, labels, **keyed(model))
    for hook in hooks:
        hook.remove()
    return counts


def test_the_hierarchical_model_looks_at_all_latents_and_the_markovian_at_one() -> None:
    settings = {"depth": 4, "latent_channels": 2, "widths": (8, 8)}
    assert seen_by(HierarchicalVAE(3, **settings, classes=10)) == [1, 2, 3, 4]
    assert seen_by(HierarchicalVAE(3, **settings, classes=10, markovian=True)) == [1, 1, 1, 1]


def test_free_bits_report_the_divergence_and_descend_the_objective() -> None:
    kl = torch.tensor([0.5, 3.0], requires_grad=True)
    value = free_bits(kl, 1.0)
    assert torch.equal(value, kl)
    value.sum().backward()
    assert kl.grad is not None
    assert torch.equal(kl.grad, torch.tensor([0.0, 1.0]))


def test_free_bits_leave_the_reported_terms_alone_and_stop_the_pull_on_the_posterior(
    images: Tensor,
) -> None:
    made = []
    for nats in (0.0, 1e6):
        torch.manual_seed(0)
        model = VAE(1, latent_channels=1, widths=(4, 4, 4), free_nats=nats)
        torch.nn.init.constant_(model.posterior.exit.conv.bias, 0.3)
        made.append(model)
    noise = torch.randn(4, 1, 1, 1)
    plain, free = (m(images, noise_encoder=noise) for m in made)
    assert torch.equal(plain.total, free.total)
    plain.prior.sum().backward()
    bias = made[0].posterior.exit.conv.bias
    assert bias.grad is not None
    assert bias.grad.any()
    assert (
        not free.prior.requires_grad
        or not torch.autograd.grad(free.prior.sum(), made[1].posterior.exit.conv.bias)[0].any()
    )


def test_a_sample_depends_on_its_own_id_and_label_alone(model: VAE | HierarchicalVAE) -> None:
    def draw(ids: list[int], labels: list[int], seed: int = 0, **options: str) -> Tensor:
        return sample_vae(
            model, torch.tensor(ids), torch.tensor(labels), shape=(3, 8, 4), seed=seed, **options
        )

    model.double()
    for options in ({}, {"decode": "sample"}):
        together = draw([7, 3, 11], [0, 1, -1], **options)
        assert together.dtype == torch.uint8
        assert together.shape == (3, 3, 8, 4)
        assert torch.equal(draw([11, 7], [-1, 0], **options), together[[2, 0]])
        assert not torch.equal(draw([7, 3, 11], [0, 1, -1], seed=1, **options), together)
    assert not torch.equal(draw([3], [1]), draw([3], [2]))
    assert model.training


def test_samples_have_the_law_of_the_model(vae: VAE) -> None:
    """The share of each level over samples against its probability, summed over a grid of z."""
    noise = torch.linspace(-7, 7, 401, dtype=torch.float64)
    weights = torch.exp(-0.5 * noise.square())
    with torch.no_grad():
        pixel = [value[:, :, :1, :1] for value in vae.generate(noise.reshape(-1, 1, 1, 1))]
        log_p = [
            -PixelLikelihood(*pixel).nll(torch.full((401, 1, 1, 1), k, dtype=torch.uint8), 4)
            for k in range(4)
        ]
    expected = torch.stack(log_p).exp() @ (weights / weights.sum())
    drawn = sample_vae(vae, torch.arange(4000), shape=(1, 4, 4), decode="sample")[:, 0, 0, 0]
    actual = torch.bincount(drawn.long(), minlength=4) / len(drawn)
    assert expected.min() > 0.01
    assert (actual.cumsum(0) - expected.cumsum(0)).abs().max() < 1.63 / len(drawn) ** 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_encoder": torch.zeros(4, 1)}, "noise_encoder has shape"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, r"give int64 of \(4,\)"),
        ({"labels": torch.full((4,), 10)}, "label 10 is none of 10 classes"),
        ({"images": torch.zeros(4, 3, 9, 4, dtype=torch.uint8)}, "9 x 4 do not divide by 2"),
        ({"images": torch.zeros(4, 3, 8, dtype=torch.uint8)}, "non-empty"),
    ],
)
def test_what_does_not_fit_is_refused(
    model: VAE | HierarchicalVAE, change: dict[str, Tensor], message: str
) -> None:
    images, labels = batch()
    arguments = {"images": images, "labels": labels, **keyed(model), **change}
    with pytest.raises(ValueError, match=message):
        model(**arguments)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"levels": 1}, "levels is 1"),
        ({"free_nats": -1.0}, "free_nats is -1.0"),
        ({"latent_channels": 0}, "latent_channels is 0"),
        ({"widths": ()}, "0 widths"),
    ],
)
def test_settings_without_meaning_are_refused(settings: dict[str, object], message: str) -> None:
    for make in MODELS.values():
        with pytest.raises(ValueError, match=message):
            make(1, **settings)
    with pytest.raises(ValueError, match="depth is 0"):
        HierarchicalVAE(1, depth=0)


def test_sampling_refuses_what_the_model_does_not_have(model: VAE | HierarchicalVAE) -> None:
    ids = torch.arange(2)
    for options, message in (
        ({"decode": "mean"}, "decode is 'mean'"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "one label per sample"),
        ({"labels": torch.full((2,), 10)}, "label 10 is none of 10 classes"),
        ({"shape": (3, 7, 4)}, "7 x 4 do not divide"),
    ):
        with pytest.raises(ValueError, match=message):
            sample_vae(model, ids, **{"shape": (3, 8, 4), **options})
