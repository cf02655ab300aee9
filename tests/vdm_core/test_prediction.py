"""epsilon, x, v and score say the same thing: conversions, round trips and errors."""

from itertools import product
from typing import get_args

import pytest
import torch
from torch import Tensor

from vdm_core.diffusion import alpha_sigma, broadcast, diffuse
from vdm_core.prediction import (
    Prediction,
    check_prediction,
    convert,
    squared_error,
    to_epsilon,
    to_x,
)

KINDS: tuple[Prediction, ...] = get_args(Prediction)
GAMMA = torch.linspace(-15, 15, 13, dtype=torch.float64)


def draw() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, epsilon = torch.randn(2, len(GAMMA), 2, 3, 3, generator=generator, dtype=torch.float64)
    return x, epsilon, diffuse(x, GAMMA, epsilon).z


@pytest.mark.parametrize("kind", KINDS)
def test_the_right_prediction_gives_back_x_and_epsilon(kind: Prediction) -> None:
    x, epsilon, z = draw()
    p = convert(epsilon, z, GAMMA, source="epsilon", target=kind)
    torch.testing.assert_close(to_x(p, z, GAMMA, kind), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(to_epsilon(p, z, GAMMA, kind), epsilon, rtol=1e-9, atol=1e-9)


def test_v_and_score_are_what_their_definitions_say() -> None:
    x, epsilon, z = draw()
    alpha, sigma = alpha_sigma(GAMMA, like=x)
    v = convert(epsilon, z, GAMMA, source="epsilon", target="v")
    torch.testing.assert_close(v, alpha * epsilon - sigma * x)
    leaf = z.clone().requires_grad_()
    log_q = -0.5 * ((leaf - alpha * x) / sigma).square().sum()
    (score,) = torch.autograd.grad(log_q, leaf)
    torch.testing.assert_close(convert(x, z, GAMMA, source="x", target="score"), score)


@pytest.mark.parametrize(("source", "target"), [*product(KINDS, KINDS)])
def test_any_prediction_survives_the_way_to_another_and_back(
    source: Prediction, target: Prediction
) -> None:
    _, answer, z = draw()
    there = convert(answer, z, GAMMA, source=source, target=target)
    back = convert(there, z, GAMMA, source=target, target=source)
    torch.testing.assert_close(back, answer, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_the_squared_error_is_that_of_epsilon_and_keeps_its_digits_in_float32(
    kind: Prediction,
) -> None:
    """An answer that is wrong by one part in a thousand, whose error z could not resolve."""
    x, epsilon, z = draw()
    right = convert(epsilon, z, GAMMA, source="epsilon", target=kind)
    p = (right * 1.001).float()
    x, epsilon, gamma = x.float(), epsilon.float(), GAMMA.float()
    z = diffuse(x.double(), gamma.double(), epsilon.double()).z
    epsilon_hat = to_epsilon(p.double(), z, gamma.double(), kind)
    reference = (epsilon.double() - epsilon_hat).square().flatten(1).sum(1)
    got = squared_error(p, x, epsilon, gamma, kind)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.double(), reference, rtol=1e-3, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_the_error_scale_turns_an_error_of_the_prediction_into_one_of_epsilon(
    kind: Prediction,
) -> None:
    x, epsilon, z = draw()
    p = torch.randn_like(x)
    reference = (epsilon - to_epsilon(p, z, GAMMA, kind)).square().flatten(1).sum(1)
    torch.testing.assert_close(
        squared_error(p, x, epsilon, GAMMA, kind), reference, rtol=1e-8, atol=1e-8
    )


def test_float32_conversions_are_right_to_1e_6_where_nothing_cancels() -> None:
    gamma = torch.linspace(-15, 15, 301)
    alpha, sigma = alpha_sigma(gamma.double())
    one, z = torch.ones(301, 1, 1, 1), torch.zeros(301, 1, 1, 1)
    for got, reference in (
        (to_x(one, z, gamma, "epsilon"), -sigma / alpha),
        (to_epsilon(one, z, gamma, "x"), -alpha / sigma),
        (to_x(one, z, gamma, "v"), -sigma),
        (to_epsilon(one, z, gamma, "score"), -sigma),
        (to_x(one, z, gamma, "score"), sigma.square() / alpha),
    ):
        torch.testing.assert_close(got.double(), broadcast(reference, z), rtol=1e-6, atol=0)


def test_an_unknown_name_is_an_error_that_gives_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"'eps'.*epsilon, x, v, score"):
        check_prediction("eps")
