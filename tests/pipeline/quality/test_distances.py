"""Distances between features: closed forms of Gaussians, and other implementations."""

import math

import numpy as np
import pytest
import scipy.linalg
import torch

from pipeline.quality.distances import (
    Moments,
    frechet_distance,
    kernel_distance,
    moments,
    precision_recall,
)


def exactly(mean: torch.Tensor, covariance: torch.Tensor) -> Moments:
    return Moments(2, mean.double(), covariance.double())  # N - 1 is 1


def some_covariance(seed: int, dims: int = 6, rank: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    factor = torch.randn(dims, rank, generator=generator, dtype=torch.float64)
    return factor @ factor.T


def test_frechet_distance_of_gaussians_with_the_same_axes_is_their_closed_form():
    """|m_1 - m_2|^2 + sum (s_1 - s_2)^2 in any rotation."""
    axes, _ = torch.linalg.qr(some_covariance(0))
    one = torch.tensor([4.0, 1.0, 0.3, 2.0, 0.1, 0.2], dtype=torch.float64)
    other = torch.tensor([1.0, 1.0, 2.0, 0.5, 0.1, 3.0], dtype=torch.float64)
    mean = torch.arange(6.0)
    got = frechet_distance(
        exactly(mean, axes @ torch.diag(one.square()) @ axes.T),
        exactly(mean - 0.5, axes @ torch.diag(other.square()) @ axes.T),
    )
    assert got == pytest.approx(6 * 0.25 + (one - other).square().sum().item(), rel=1e-9)


def test_frechet_distance_is_that_of_the_matrix_square_root():
    """Against scipy's Schur method, for covariances that do not commute."""
    a, b = some_covariance(1), some_covariance(2)
    root = scipy.linalg.sqrtm((a @ b).numpy()).real
    expected = np.trace((a + b).numpy() - 2 * root)
    zero = torch.zeros(6)
    assert frechet_distance(exactly(zero, a), exactly(zero, b)) == pytest.approx(expected, rel=1e-9)
    assert frechet_distance(exactly(zero, b), exactly(zero, a)) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_needs_no_full_rank():
    """Fewer images than features: still 0 of itself and finite of others."""
    a, b = some_covariance(3, rank=2), some_covariance(4, rank=3)
    zero = torch.zeros(6)
    assert frechet_distance(exactly(zero, a), exactly(zero, a)) == pytest.approx(0, abs=1e-6)
    assert 0 < frechet_distance(exactly(zero, a), exactly(zero, b)) < (a.trace() + b.trace())


def test_moments_come_out_the_same_however_the_features_are_cut():
    """Against numpy, with a mean so large that sums of squares in float32 would lose all."""
    features = 1e4 + torch.randn(301, 5, generator=torch.Generator().manual_seed(0))
    cut = moments(features.split([1, 100, 2, 198]))
    assert cut.count == 301
    assert cut.mean.numpy() == pytest.approx(features.double().mean(0).numpy(), rel=1e-12)
    expected = np.cov(features.double().numpy(), rowvar=False)
    assert cut.covariance.numpy() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    with pytest.raises(ValueError, match="two rows"):
        moments([features[:1]])


def test_kernel_distance_is_unbiased():
    """0 on average for two draws of one Gaussian; of others, the closed form of the means.

    In one dimension E[(x y + 1)^3] = 1 + 3 m n + 3 E[x^2] E[y^2] + E[x^3] E[y^3].
    """
    rng = np.random.default_rng(0)

    def raw(mean: float, order: int) -> float:
        return {1: mean, 2: mean**2 + 1, 3: mean**3 + 3 * mean}[order]

    def expected(m: float, n: float) -> float:
        return 1 + sum(math.comb(3, k) * raw(m, k) * raw(n, k) for k in (1, 2, 3))

    x = torch.from_numpy(rng.normal(0.0, 1, (40_000, 1)))
    same = torch.from_numpy(rng.normal(0.0, 1, (40_000, 1)))
    other = torch.from_numpy(rng.normal(0.5, 1, (40_000, 1)))
    settings = {"subset": 200, "subsets": 400, "seed": 1}
    null = kernel_distance(x, same, **settings)
    assert abs(null.mean) < 4 * null.deviation / 400**0.5
    found = kernel_distance(x, other, **settings)
    truth = expected(0, 0) + expected(0.5, 0.5) - 2 * expected(0, 0.5)
    assert abs(found.mean - truth) < 4 * found.deviation / 400**0.5
    assert found.mean > 10 * found.deviation / 400**0.5
    assert kernel_distance(x, other, **settings) == found


def test_kernel_distance_of_a_small_set_takes_all_of_it():
    x, y = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0], [1.0]])
    # k(x, x') = 1, k(y, y') = 8, the mean of k(x, y) = (1 + 27) / 2
    assert kernel_distance(x, y, subset=99, subsets=3, seed=0) == (pytest.approx(1 + 8 - 28), 0, 2)


def test_precision_and_recall_see_what_is_outside_and_what_is_missing():
    """Data on two far clusters; samples on one of them and on a third place."""
    generator = torch.Generator().manual_seed(0)

    def cluster(at: float, count: int) -> torch.Tensor:
        return at + torch.rand(count, 2, generator=generator)

    data = torch.cat([cluster(0, 60), cluster(100, 40)])
    samples = torch.cat([data[:60], cluster(200, 20)])
    found = precision_recall(samples, data, neighbour=3)
    assert found == (pytest.approx(60 / 80), pytest.approx(60 / 100))
    assert precision_recall(data, data, neighbour=1) == (1, 1)
    with pytest.raises(ValueError, match="more than that many rows"):
        precision_recall(samples, data[:3], neighbour=3)
