"""Gaussians against torch.distributions."""

import torch
from torch import Tensor
from torch.distributions import Independent, Normal, kl_divergence

from vdm_core.ladder.gaussian import Gaussian, standard_normal


def pair() -> tuple[Gaussian, Gaussian]:
    generator = torch.Generator().manual_seed(0)
    numbers = torch.randn(4, 5, 2, 3, 3, generator=generator, dtype=torch.float64)
    return Gaussian(numbers[0], numbers[1]), Gaussian(numbers[2], numbers[3])


def reference(gaussian: Gaussian) -> Independent:
    return Independent(Normal(gaussian.mean, gaussian.log_std.exp()), 3)


def test_divergence_entropy_and_density_are_those_of_torch() -> None:
    q, p = pair()
    torch.testing.assert_close(q.kl(p), kl_divergence(reference(q), reference(p)))
    torch.testing.assert_close(q.entropy(), reference(q).entropy())
    torch.testing.assert_close(q.log_prob(p.mean), reference(q).log_prob(p.mean))
    torch.testing.assert_close(q.sample(p.mean), q.mean + q.log_std.exp() * p.mean)


def test_the_divergence_of_near_equals_keeps_its_digits_in_float32() -> None:
    """1/2 (m^2 + (2 d)^2 / 2) for a small shift m and a small stretch d: neither cancels."""
    zero = standard_normal(torch.zeros(1, 1, 1, 1))
    for mean, log_std in ((1e-4, 0.0), (0.0, 2e-4), (1e-4, 2e-4)):
        q = Gaussian(zero.mean + mean, zero.log_std + log_std)
        kl = q.kl(zero).item()
        assert abs(kl - 0.5 * (mean**2 + 2 * log_std**2)) < 3e-3 * max(kl, 1e-9) + 2e-11


def test_the_divergence_of_a_gaussian_to_itself_is_zero() -> None:
    q, _ = pair()
    assert torch.equal(q.kl(q), torch.zeros(5, dtype=torch.float64))


def test_gradients_reach_all_four_parameters() -> None:
    q, p = (Gaussian(*(t.requires_grad_() for t in g)) for g in pair())
    torch.autograd.backward(q.kl(p).sum())
    gradients: list[Tensor | None] = [t.grad for g in (q, p) for t in g]
    assert all(g is not None and g.isfinite().all() and g.any() for g in gradients)
