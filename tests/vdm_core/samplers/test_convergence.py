"""The solvers of the probability flow against its closed form, and all samplers in float32."""

import math

import pytest
import torch

from vdm_core.samplers import ancestral, ddim, dpmpp_2m, heun, pc

STEPS = (40, 80, 160, 320)


def even(steps, gamma_0=-8.0, gamma_1=5.0):
    return torch.linspace(gamma_1, gamma_0, steps + 1, dtype=torch.float64)


def uneven(steps):
    """Short and long steps in turn, 1 to 3: a multistep method must know the step before."""
    lengths = torch.tensor([1.0, 3.0], dtype=torch.float64).repeat(steps // 2)
    return 5.0 - 13.0 * torch.cat([torch.zeros(1), lengths.cumsum(0)]) / lengths.sum()


def order(errors):
    """Least-squares slope of log error against log step size."""
    x, y = -torch.tensor(STEPS).double().log(), torch.tensor(errors).double().log()
    return ((x - x.mean()) * y).sum().item() / (x - x.mean()).square().sum().item()


@pytest.mark.parametrize("grid", [even, uneven])
@pytest.mark.parametrize(("sampler", "expected"), [(ddim, 1), (dpmpp_2m, 2), (heun, 2)])
def test_solvers_converge_to_the_probability_flow_in_their_order(
    sampler, expected, grid, gaussian, affine_map
):
    data, errors = gaussian(0), []
    for steps in STEPS:
        gammas = grid(steps)
        exact_offset, exact = data.flow(gammas[0].item(), gammas[-1].item())
        offset, (matrix,) = affine_map(sampler, data.epsilon_hat, gammas, 0)
        errors.append(math.hypot((matrix - exact).norm(), (offset - exact_offset).norm()))
    assert order(errors) == pytest.approx(expected, abs=0.15)


def test_dpmpp_2m_takes_a_straight_x_hat_at_the_middle_of_each_step_but_the_first(walk):
    """Steps of any length: an error in their ratio telescopes, and the order does not show it."""
    gammas, z = uneven(6), torch.full((1, 4), 0.7, dtype=torch.float64)
    alpha, sigma = torch.sigmoid(-gammas).sqrt(), torch.sigmoid(gammas).sqrt()

    def x_hat(gamma):
        return 0.3 - 0.2 * gamma

    def denoiser(z, gamma, labels):
        alpha, sigma = math.sqrt(1 / (1 + math.exp(gamma))), math.sqrt(1 / (1 + math.exp(-gamma)))
        return (z - alpha * x_hat(gamma)) / sigma

    expected = z
    for t in range(6):
        at = gammas[t] if t == 0 else (gammas[t] + gammas[t + 1]) / 2
        ratio = sigma[t + 1] / sigma[t]
        expected = ratio * expected + (alpha[t + 1] - ratio * alpha[t]) * x_hat(at)
    torch.testing.assert_close(walk(dpmpp_2m, denoiser, z, gammas, None), expected)


def mixture(z, gamma, labels):
    """The exact denoiser of a mixture of three narrow Gaussians, pixel by pixel."""
    means, variances, weights = torch.tensor(
        [[-0.8, -0.1, 0.6], [0.01, 0.003, 0.05], [0.3, 0.3, 0.4]], dtype=z.dtype
    )
    alpha2, sigma2 = 1 / (1 + math.exp(gamma)), 1 / (1 + math.exp(-gamma))
    marginal = alpha2 * variances + sigma2
    off = z[..., None] - math.sqrt(alpha2) * means
    share = (weights.log() - marginal.log() / 2 - off.square() / (2 * marginal)).softmax(-1)
    return math.sqrt(sigma2) * (share * off / marginal).sum(-1)


def heun_in_sigma_over_alpha(denoiser, z, labels, gammas, noise):
    """Karras et al. 2022's variables, in which DDIM is Euler's method."""
    alpha, sigma = torch.sigmoid(-gammas).sqrt(), torch.sigmoid(gammas).sqrt()
    for t in range(len(gammas) - 1):
        ratio = alpha[t + 1] / alpha[t]
        step = sigma[t + 1] - ratio * sigma[t]
        first = denoiser(z, gammas[t].item(), labels)
        second = denoiser(ratio * z + step * first, gammas[t + 1].item(), labels)
        z = ratio * z + step * (first + second) / 2
        yield z


def test_heun_in_gamma_beats_heun_in_sigma_over_alpha_on_narrow_modes():
    """The reason for the choice of variables."""
    z = torch.randn(1, 1, 1, 200, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def end(solver, steps):
        *_, z_0 = solver(mixture, z, None, even(steps, -13.3), None)
        return z_0

    truth = end(heun, 1000)
    solvers = (heun, heun_in_sigma_over_alpha)
    for steps in (20, 80):
        ours, theirs = ((end(s, steps) - truth).abs().mean() for s in solvers)
        assert ours < theirs / 3


@pytest.mark.parametrize("sampler", [ancestral, ddim, dpmpp_2m, heun, pc])
def test_float32_sampling_stays_with_float64_over_a_thousand_steps(sampler, gaussian, walk):
    data, gammas = gaussian(0), even(1000, -13.3)
    generator = torch.Generator().manual_seed(0)
    noises = torch.randn(2001, 8, 1, 1, 4, generator=generator)

    def end(dtype):
        noise = noises.to(dtype)
        return walk(sampler, data.epsilon_hat, noise[2000], gammas, lambda k: noise[k])

    torch.testing.assert_close(end(torch.float32).double(), end(torch.float64), rtol=0, atol=5e-5)


@pytest.mark.parametrize(
    ("sampler", "calls"), [(ancestral, 5), (ddim, 5), (dpmpp_2m, 5), (heun, 10), (pc, 10)]
)
def test_samplers_yield_a_latent_per_step_and_show_the_denoiser_labels_and_gammas_of_the_grid(
    sampler, calls, gaussian
):
    data, z, seen = gaussian(0), torch.zeros(2, 1, 1, 4, dtype=torch.float64), []
    classes, gammas = torch.tensor([0, 1]), even(5)

    def counted(z, gamma, labels):
        assert labels is classes
        seen.append(gamma)
        return data.epsilon_hat(z, gamma, labels)

    assert len(list(sampler(counted, z, classes, gammas, lambda k: z))) == 5
    assert len(seen) == calls
    assert set(seen) <= set(gammas.tolist())
