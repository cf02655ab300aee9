"""The bounds of VAEs against the likelihood itself, summed over grids of their latents."""

import math

import torch
from torch import Tensor

from vdm_core.ladder import VAE, HierarchicalVAE
from vdm_core.ladder.gaussian import Gaussian
from vdm_core.records import HierarchicalElboTerms


def grid(nodes: int) -> tuple[Tensor, Tensor]:
    """The trapezium rule for N(0, 1): exact to many digits for smooth functions."""
    noise = torch.linspace(-7, 7, nodes, dtype=torch.float64)
    weights = torch.exp(-0.5 * noise.square())
    return noise, weights / weights.sum()


def column(values: Tensor) -> Tensor:
    return values.reshape(-1, 1, 1, 1)


def repeated(image: Tensor, count: int) -> Tensor:
    return image.expand(count, 1, 4, 4).contiguous()


def test_the_vae_bound_is_the_likelihood_plus_the_divergence_from_the_true_posterior(
    vae: VAE, images: Tensor
) -> None:
    """-ELBO = -log p(x) + KL(q(z | x) || p(z | x)), each by its own sum over z."""
    noise, weights = grid(601)
    for image in images:
        many = repeated(image, len(noise))
        with torch.no_grad():
            terms = vae(many, noise_encoder=column(noise))
            bound = (weights * terms.total).sum()
            log_joint = -vae.generate(column(noise)).nll(many, 4)  # + log N(z; 0, 1), in weights
            log_p = (weights.log() + log_joint).logsumexp(0)
            q = Gaussian(*(value[:1] for value in vae.encode(many)))
            z = q.sample(column(noise))
            log_posterior = -vae.decode(z).nll(many, 4) - log_p
            log_posterior += Gaussian(torch.zeros_like(z), torch.zeros_like(z)).log_prob(z)
            gap = (weights * (q.log_prob(z) - log_posterior)).sum()
        assert gap > 1e-3
        torch.testing.assert_close(bound, gap - log_p, rtol=1e-7, atol=0)


def test_the_hierarchical_bound_is_the_likelihood_plus_the_divergence_of_the_joints(
    hvae: HierarchicalVAE, images: Tensor
) -> None:
    """The same over all three latents at once: the levels' divergences add up to the joint's.

    log q(z | x) - log p(z, x) is taken from the draws alone, with the densities of noise and
    latent, so that no divergence in closed form enters.
    """
    nodes, weights = grid(21)
    noise = torch.cartesian_prod(nodes, nodes, nodes)
    weight = torch.cartesian_prod(weights, weights, weights).prod(1)
    many = repeated(images[0], len(noise))
    with torch.no_grad():
        terms = hvae(many, noise_encoder=noise[..., None, None, None])
        features = hvae.features(many.double() / 2 - 3 / 4, None)
        latents: tuple[Tensor, ...] = ()
        log_ratio = torch.zeros(len(noise), dtype=torch.float64)
        for e in noise.unbind(1):
            p = hvae._prior(latents, column(e), None)
            q = hvae._posterior(p, latents, features, None)
            z = q.sample(column(e))
            log_ratio += q.log_prob(z) - p.log_prob(z)
            latents += (z,)
        nll = hvae.likelihood(hvae._seen(latents), None).nll(many, 4)
        torch.testing.assert_close(
            (weight * terms.total).sum(), (weight * (log_ratio + nll)).sum(), rtol=1e-6, atol=0
        )
        log_p = (weight.log() - hvae.generate(noise[..., None, None, None]).nll(many, 4)).logsumexp(
            0
        )
    assert (weight * terms.total).sum() > -log_p
    torch.testing.assert_close(
        (log_ratio + nll).neg().add(weight.log()).logsumexp(0), log_p, rtol=1e-4, atol=0
    )


def test_a_bound_with_the_exact_posterior_is_the_likelihood_of_linear_gaussian_data() -> None:
    """x = w z + s e: with q = p(z | x) the bound is -log N(x; 0, w^2 + s^2), else it is more."""
    w, s, x = 0.8, 0.5, torch.linspace(-2, 2, 5, dtype=torch.float64).reshape(-1, 1)
    variance = w**2 + s**2
    nll = 0.5 * (x.square() / variance + math.log(math.tau * variance))[:, 0]
    exact = Gaussian(w * x / variance, torch.full_like(x, math.log(s / math.sqrt(variance))))
    prior = Gaussian(torch.zeros_like(x), torch.zeros_like(x))

    def bound(q: Gaussian) -> Tensor:
        mean_square = (x - w * q.mean).square() + w**2 * (2 * q.log_std).exp()
        return 0.5 * (mean_square / s**2 + math.log(math.tau * s**2))[:, 0] + q.kl(prior)

    torch.testing.assert_close(bound(exact), nll)
    for q in (
        Gaussian(exact.mean + 0.1, exact.log_std),
        Gaussian(exact.mean, exact.log_std - 0.1),
        prior,
    ):
        assert (bound(q) > nll + 1e-4).all()


def test_every_level_has_a_divergence_that_is_not_negative_and_they_add_up(
    hvae: HierarchicalVAE, images: Tensor
) -> None:
    terms: HierarchicalElboTerms = hvae(images, noise_encoder=torch.randn(4, 3, 1, 1, 1))
    assert tuple(terms.named()) == hvae.term_names
    assert hvae.term_names == ("reconstruction", "prior", "kl_1", "kl_2")
    assert all(term.shape == (4,) and (term > 0).all() for term in terms.named().values())
    torch.testing.assert_close(terms.total, torch.stack([*terms.named().values()]).sum(0))
    torch.testing.assert_close(terms.bits_per_dim(16), terms.total / (16 * math.log(2)))


def test_the_top_latent_is_the_prior_and_columns_count_from_the_image(images: Tensor) -> None:
    """With only one conditional's posterior moved, only the term of that name is not zero."""
    for drawn, name in enumerate(("prior", "kl_2", "kl_1")):
        model = HierarchicalVAE(1, depth=3, latent_channels=1, widths=(4, 4, 4))
        torch.nn.init.ones_(model.posteriors[drawn].exit.conv.bias)
        terms = model(images, noise_encoder=torch.randn(4, 3, 1, 1, 1)).named()
        moved = {key for key, kl in terms.items() if key != "reconstruction" and kl.any()}
        assert moved == {name}
