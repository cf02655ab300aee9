"""The model as a whole: exact bounds on known data, predictions, precision, draws and errors."""

import math
from typing import get_args

import pytest
import torch
from torch import Tensor, nn

from vdm_core.decoder import encode, log_prob
from vdm_core.diffusion import alpha_sigma
from vdm_core.prediction import Prediction, convert
from vdm_core.records import ElboTerms
from vdm_core.schedule import LinearSchedule, MonotoneSchedule
from vdm_core.vdm import VDM

KINDS: tuple[Prediction, ...] = get_args(Prediction)


class Convolution(nn.Module):
    """A small network that sees z, gamma and the labels, and remembers how it was called."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.seen: dict[str, object] = {}

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        answer: Tensor = self.conv(z)
        self.seen = {
            "z": z,
            "gamma": gamma,
            "labels": labels,
            "answer": answer.dtype,
            "autocast": torch.is_autocast_enabled("cpu"),
        }
        shift = gamma if labels is None else gamma + labels
        return answer + 0.01 * shift.to(answer.dtype)[:, None, None, None]


class Levels(nn.Module):
    """The optimal denoiser of one-pixel images whose level k has probability p_k."""

    log_p: Tensor
    x: Tensor

    def __init__(self, probabilities: Tensor) -> None:
        super().__init__()
        levels = len(probabilities)
        self.register_buffer("log_p", probabilities.log())
        self.register_buffer("x", encode(torch.arange(levels), levels, torch.float64))

    def log_joint(self, z: Tensor, gamma: Tensor) -> Tensor:
        """log of p_k q(z | x_k) up to a constant of z, (..., L) for z (...)."""
        alpha, sigma = alpha_sigma(gamma, like=z)
        error = (z[..., None] - alpha[..., None] * self.x) / sigma[..., None]
        return self.log_p - 0.5 * error.square()

    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        x_hat = (self.log_joint(z, gamma).softmax(-1) * self.x).sum(-1)
        return convert(x_hat, z, gamma, source="x", target="epsilon")


def random_images(batch: int = 4, channels: int = 3, size: int = 8) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, channels, size, size)
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)


def normal_grid(nodes: int = 161) -> tuple[Tensor, Tensor]:
    """Trapezium nodes and weights of N(0, 1): for smooth integrands exact to many digits."""
    noise = torch.linspace(-8, 8, nodes, dtype=torch.float64)
    weights = torch.exp(-0.5 * noise.square())
    return noise, weights / weights.sum()


@pytest.mark.parametrize("spread", [math.inf, 0.4])
def test_with_the_optimal_denoiser_the_bound_is_entropy_plus_the_gaps_at_both_ends(
    spread: float,
) -> None:
    """-ELBO = H(x) + KL(q(z_1) || N(0, I)) + E KL(q(x | z_0) || p(x | z_0)), exactly, for data
    whose every expectation can be summed: 8 levels, uniform (where the last gap is 0: the decoder
    assumes equal levels) or bell-shaped.
    """
    levels, gamma_0, gamma_1 = 8, -5.0, 3.0
    level = torch.arange(levels)
    p = torch.exp(-0.5 * (encode(level, levels, torch.float64) / spread).square())
    p = p / p.sum()
    network = Levels(p).double()
    vdm = VDM(network, LinearSchedule(gamma_0, gamma_1).double(), levels=levels)
    noise, noise_weight = normal_grid()
    times = (torch.arange(600, dtype=torch.float64) + 0.5) / 600

    k, t, e = torch.meshgrid(level.double(), times, noise, indexing="ij")
    weight = (p[:, None, None] * noise_weight).expand(k.shape).flatten() / len(times)
    noise_grid = e.reshape(-1, 1, 1, 1)
    with torch.no_grad():
        terms = vdm(
            k.reshape(-1, 1, 1, 1).byte(), times=t.flatten(), noise=noise_grid, noise_0=noise_grid
        )
    bound = (terms.total * weight).sum().item()

    entropy = -(p * p.log()).sum().item()
    end_gap = _kl_of_mixture_to_normal(network, p, torch.tensor(gamma_1, dtype=torch.float64))
    decoder_gap = _decoder_gap(network, p, torch.tensor([gamma_0], dtype=torch.float64))
    assert (decoder_gap < 1e-9) == (spread == math.inf)
    assert bound == pytest.approx(entropy + end_gap + decoder_gap, abs=2e-5)


def _kl_of_mixture_to_normal(network: Levels, p: Tensor, gamma: Tensor) -> float:
    z = torch.linspace(-12, 12, 4001, dtype=torch.float64)
    _, sigma = alpha_sigma(gamma)
    log_q = network.log_joint(z, gamma).logsumexp(-1) - (sigma * math.sqrt(math.tau)).log()
    log_normal = -0.5 * z.square() - 0.5 * math.log(math.tau)
    return float((log_q.exp() * (log_q - log_normal)).sum() * (z[1] - z[0]))


def _decoder_gap(network: Levels, p: Tensor, gamma_0: Tensor) -> float:
    noise, weight = normal_grid()
    levels = len(p)
    alpha, sigma = alpha_sigma(gamma_0)
    z = (alpha * network.x[:, None] + sigma * noise).reshape(-1, 1, 1, 1)
    k = torch.arange(levels).repeat_interleave(len(noise))
    log_q = network.log_joint(z, gamma_0).log_softmax(-1)[:, 0, 0, 0].gather(-1, k[:, None])[:, 0]
    log_p = log_prob(k.reshape(-1, 1, 1, 1).byte(), z, gamma_0, levels)
    return float(((log_q - log_p) * (p[:, None] * weight).flatten()).sum())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("steps", [None, 10])
def test_the_elbo_is_the_same_whichever_prediction_is_declared(
    kind: Prediction, steps: int | None
) -> None:
    class Converted(nn.Module):
        def __init__(self, network: nn.Module) -> None:
            super().__init__()
            self.network = network

        def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
            answer = self.network(z, gamma, labels)
            return convert(answer, z, gamma, source="epsilon", target=kind)

    network = Convolution().double()
    images = random_images()
    draws = {
        "times": torch.rand(4, dtype=torch.float64),
        "noise": torch.randn(images.shape, dtype=torch.float64),
        "noise_0": torch.randn(images.shape, dtype=torch.float64),
    }
    schedule = LinearSchedule().double()
    reference = VDM(network, schedule, steps=steps)(images, **draws)
    terms = VDM(Converted(network), schedule, steps=steps, prediction=kind)(images, **draws)
    for got, expected in zip(terms, reference, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("schedule", [LinearSchedule, MonotoneSchedule])
def test_under_bf16_autocast_only_the_network_is_bf16(schedule: type[LinearSchedule]) -> None:
    """gamma(0) in bf16 would be -13.3125; the terms must not depend on autocast at all, except
    through the network's answer."""
    images, network = random_images(), Convolution()
    vdm = VDM(network, schedule())
    draws = {
        "times": torch.tensor([0.0, 0.3, 0.7, 1.0]),
        "noise": torch.randn(images.shape),
        "noise_0": torch.randn(images.shape),
    }
    plain = vdm(images, **draws)
    z, gamma = network.seen["z"], network.seen["gamma"]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = vdm(images, **draws)
    assert network.seen["autocast"]
    assert network.seen["answer"] == torch.bfloat16
    assert isinstance(gamma, Tensor)
    assert gamma[0].item() == torch.tensor(-13.3).item()
    assert torch.equal(network.seen["gamma"], gamma)  # type: ignore[arg-type]
    assert torch.equal(network.seen["z"], z)  # type: ignore[arg-type]
    assert all(term.dtype == torch.float32 for term in mixed)
    assert torch.equal(plain.reconstruction, mixed.reconstruction)
    assert torch.equal(plain.prior, mixed.prior)
    torch.testing.assert_close(plain.diffusion, mixed.diffusion, rtol=0.02, atol=0)


def test_terms_are_one_number_of_each_example_in_the_modules_precision() -> None:
    images = random_images()
    for dtype in (torch.float32, torch.float64):
        terms = VDM(Convolution(), LinearSchedule()).to(dtype)(images)
        assert isinstance(terms, ElboTerms)
        assert all(term.shape == (4,) and term.dtype == dtype for term in terms)
    half = VDM(Convolution().to(torch.bfloat16), LinearSchedule())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert half(images).total.dtype == torch.float32


def test_an_example_has_the_same_terms_alone_and_in_a_batch() -> None:
    images = random_images()
    vdm = VDM(Convolution().double(), MonotoneSchedule().double(), steps=None)
    times = torch.rand(4, dtype=torch.float64)
    noise, noise_0 = torch.randn(2, *images.shape, dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, -1])
    whole = vdm(images, labels, times=times, noise=noise, noise_0=noise_0)
    part = slice(2, 3)
    alone = vdm(
        images[part], labels[part], times=times[part], noise=noise[part], noise_0=noise_0[part]
    )
    for in_batch, by_itself in zip(whole, alone, strict=True):
        torch.testing.assert_close(in_batch[part], by_itself)


def test_draws_that_are_not_given_come_from_the_generator_with_stratified_times() -> None:
    images, network = random_images(batch=49, size=2), Convolution()
    vdm = VDM(network, LinearSchedule(0.0, 1.0))

    def terms() -> ElboTerms:
        result: ElboTerms = vdm(images, generator=torch.Generator().manual_seed(3))
        return result

    before = torch.get_rng_state()
    first, second = terms(), terms()
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(before, torch.get_rng_state())
    times = network.seen["gamma"]
    assert isinstance(times, Tensor)
    strata = times.detach() * 49 - torch.arange(49)
    assert strata.min() >= 0
    assert strata.max() <= 1
    torch.testing.assert_close(strata, strata[:1].expand(49), rtol=0, atol=1e-4)
    vdm(images)
    assert not torch.equal(before, torch.get_rng_state())


def test_every_parameter_gets_a_gradient_from_the_total() -> None:
    vdm = VDM(Convolution(), MonotoneSchedule(), steps=None)
    vdm(random_images(), torch.tensor([0, 1, 2, -1])).total.mean().backward()
    for name, parameter in vdm.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert (parameter.grad != 0).any(), name


def test_a_decoder_radius_given_ahead_changes_nothing() -> None:
    images = random_images()
    vdm = VDM(Convolution(), LinearSchedule())
    noise = torch.randn(images.shape)
    terms = [vdm(images, noise_0=noise, decoder_radius=r).reconstruction for r in (None, 2)]
    torch.testing.assert_close(terms[0], terms[1])


def test_wrong_input_is_an_error_that_names_it() -> None:
    network, schedule, images = Convolution(), LinearSchedule(), random_images()
    vdm = VDM(network, schedule)
    with pytest.raises(TypeError, match=r"images are torch.float32.*uint8"):
        vdm(images.float())
    with pytest.raises(ValueError, match="non-empty"):
        vdm(images[0])
    with pytest.raises(ValueError, match="non-empty"):
        vdm(images[:0])
    with pytest.raises(ValueError, match="16 levels"):
        VDM(network, schedule, levels=16)(images)
    with pytest.raises(ValueError, match="labels"):
        vdm(images, torch.zeros(3, dtype=torch.int64))
    with pytest.raises(ValueError, match="labels"):
        vdm(images, torch.zeros(4))
    for times in (torch.full((4,), 1.5), torch.full((4,), -0.1), torch.full((4,), math.nan)):
        with pytest.raises(ValueError, match=r"\[0, 1\]"):
            vdm(images, times=times)
    with pytest.raises(ValueError, match="times"):
        vdm(images, times=torch.zeros(3))
    with pytest.raises(ValueError, match="noise_0 has shape"):
        vdm(images, noise_0=torch.zeros(4, 1, 8, 8))
    with pytest.raises(ValueError, match="the network answered"):
        VDM(_Cropping(), schedule)(images)


class _Cropping(nn.Module):
    def forward(self, z: Tensor, gamma: Tensor, labels: Tensor | None = None) -> Tensor:
        return z[:, :1]


def test_wrong_settings_are_errors_at_construction() -> None:
    network, schedule = Convolution(), LinearSchedule()
    for levels in (1, 257):
        with pytest.raises(ValueError, match="levels"):
            VDM(network, schedule, levels=levels)
    for steps in (0, -5):
        with pytest.raises(ValueError, match="steps"):
            VDM(network, schedule, steps=steps)
    with pytest.raises(ValueError, match="epsilon, x, v, score"):
        VDM(network, schedule, prediction="noise")  # type: ignore[arg-type]
