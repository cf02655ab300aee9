"""The predictor-corrector sampler as the affine map that it is on Gaussian data."""

from functools import partial

import pytest
import torch

from vdm_core.samplers import ancestral, langevin_step, pc

EYE = torch.eye(4, dtype=torch.float64)


def grid(steps):
    return torch.linspace(5.0, -8.0, steps + 1, dtype=torch.float64)


def corrector(data, gamma, snr):
    """The matrix and the noise's scale of `langevin_step` as it is, found by basis vectors."""
    quiet, basis = torch.zeros(4, 1, 1, 4).double(), EYE.reshape(4, 1, 1, 4)

    def step(z, noise):
        return langevin_step(data.epsilon_hat, z, None, gamma, noise, snr).reshape(4, 4)

    offset = step(quiet, quiet)
    matrix, from_noise = (step(basis, quiet) - offset).T, (step(quiet, basis) - offset).T
    return offset[0], matrix, from_noise


@pytest.mark.parametrize("gamma", [-6.0, 0.0, 4.0])
def test_corrector_is_langevin_dynamics_with_the_step_it_says(gamma, gaussian):
    """z - mean -> (I - delta M^-1)(z - mean) + sqrt(2 delta) noise, M the marginal covariance."""
    data, snr = gaussian(0), 0.3
    mean, marginal = data.marginal(gamma)
    delta = 2 * snr**2 * torch.sigmoid(torch.tensor(gamma).double())
    offset, matrix, from_noise = corrector(data, gamma, snr)
    torch.testing.assert_close(matrix, EYE - delta * marginal.inverse())
    torch.testing.assert_close(from_noise, (2 * delta).sqrt() * EYE)
    torch.testing.assert_close(offset, mean - matrix @ mean)


@pytest.mark.parametrize("snr", [0.05, 0.16, 0.5])
def test_corrector_leaves_the_marginal_invariant_up_to_its_step_size(snr, gaussian):
    """The mean stays; the covariance settles at M (I - delta M^-1 / 2)^-1, above M by r^2."""
    data, gamma = gaussian(0), -1.0
    mean, marginal = data.marginal(gamma)
    offset, matrix, from_noise = corrector(data, gamma, snr)
    torch.testing.assert_close(matrix @ mean + offset, mean)

    power, settled = matrix, from_noise @ from_noise.T
    for _ in range(20):  # 2, 4, ... 2^20 steps by doubling
        settled = settled + power @ settled @ power.T
        power = power @ power
    delta = 2 * snr**2 * torch.sigmoid(torch.tensor(gamma).double())
    expected = marginal @ (EYE - delta / 2 * marginal.inverse()).inverse()
    torch.testing.assert_close(settled, expected)
    excess = torch.linalg.eigvals(settled @ marginal.inverse()).real - 1
    assert excess.min() > 0
    assert excess.max() <= snr**2 / (1 - snr**2)


@pytest.mark.parametrize("corrector_steps", [1, 2])
def test_pc_follows_the_linear_recursion(corrector_steps, gaussian, affine_map):
    """Every draw is used once: a draw used twice would give another covariance."""
    data, gammas, snr = gaussian(0), grid(5), 0.2
    mean, covariance = torch.zeros(4).double(), EYE
    for k in range(5):
        offset, (matrix, from_noise) = affine_map(ancestral, data.epsilon_hat, gammas[k : k + 2], 1)
        mean = matrix @ mean + offset
        covariance = matrix @ covariance @ matrix.T + from_noise @ from_noise.T
        offset, matrix, from_noise = corrector(data, gammas[k + 1].item(), snr)
        for _ in range(corrector_steps):
            mean = matrix @ mean + offset
            covariance = matrix @ covariance @ matrix.T + from_noise @ from_noise.T

    sampler = partial(pc, snr=snr, corrector_steps=corrector_steps)
    draws = 5 * (1 + corrector_steps)
    offset, matrices = affine_map(sampler, data.epsilon_hat, gammas, draws)
    torch.testing.assert_close(offset, mean)
    torch.testing.assert_close(sum(matrix @ matrix.T for matrix in matrices), covariance)


def test_correction_brings_few_steps_closer_to_the_data(gaussian, affine_map):
    data, gammas = gaussian(0), grid(6)
    _, truth = data.marginal(gammas[-1].item())

    def error(corrector_steps):
        sampler = partial(pc, snr=0.3, corrector_steps=corrector_steps)
        draws = 6 * (1 + corrector_steps)
        _, matrices = affine_map(sampler, data.epsilon_hat, gammas, draws)
        return (sum(matrix @ matrix.T for matrix in matrices) - truth).norm()

    assert error(4) < error(1) < error(0)


def test_without_corrector_steps_pc_is_ancestral(gaussian, walk):
    data = gaussian(0)
    z, *noises = torch.randn(6, 3, 4, generator=torch.Generator().manual_seed(0)).double()
    noises = [noise.reshape(3, 1, 1, 4) for noise in noises]
    found = [
        walk(sampler, data.epsilon_hat, z, grid(5), noises.__getitem__)
        for sampler in (ancestral, partial(pc, corrector_steps=0))
    ]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"snr": 0.0}, "snr is 0.0"),
        ({"snr": 1.0}, "snr is 1.0"),
        ({"snr": float("nan")}, "snr is nan"),
        ({"corrector_steps": -1}, "corrector_steps is -1"),
    ],
)
def test_settings_out_of_range_are_refused(arguments, message, gaussian):
    z = torch.zeros(2, 1, 1, 4).double()
    with pytest.raises(ValueError, match=message):
        next(pc(gaussian(0).epsilon_hat, z, None, grid(2), lambda k: z, **arguments))
