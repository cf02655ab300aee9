"""What a network may predict, and how each choice turns into the others.

Given z = alpha x + sigma epsilon and gamma, the noise, the data, v (Salimans and Ho 2022) and the
score (Song and Ermon 2019; to x by Tweedie's formula) carry the same information. One table holds,
for each of them, the four maps that the rest of the code needs:

    p        target                   x                        epsilon                error scale
    epsilon  epsilon                  (z - sigma p) / alpha    p                      1
    x        x                        p                        (z - alpha p) / sigma  alpha / sigma
    v        alpha epsilon - sigma x  alpha z - sigma p        sigma z + alpha p      alpha
    score    -epsilon / sigma         (z + sigma^2 p) / alpha  -sigma p               sigma

The error scale turns an error of the prediction into one of epsilon without going through z, where
digits would be lost: |epsilon - epsilon_hat| = scale |target - p|.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from vdm_core.diffusion import alpha_sigma

Prediction = Literal["epsilon", "x", "v", "score"]

_Map = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


class _Row(NamedTuple):
    target: _Map  # (x, epsilon, alpha, sigma)
    to_x: _Map  # (p, z, alpha, sigma)
    to_epsilon: _Map  # (p, z, alpha, sigma)
    error_scale: Callable[[Tensor, Tensor], Tensor | float]  # (alpha, sigma)


_TABLE: dict[Prediction, _Row] = {
    "epsilon": _Row(
        target=lambda x, epsilon, alpha, sigma: epsilon,
        to_x=lambda p, z, alpha, sigma: (z - sigma * p) / alpha,
        to_epsilon=lambda p, z, alpha, sigma: p,
        error_scale=lambda alpha, sigma: 1.0,
    ),
    "x": _Row(
        target=lambda x, epsilon, alpha, sigma: x,
        to_x=lambda p, z, alpha, sigma: p,
        to_epsilon=lambda p, z, alpha, sigma: (z - alpha * p) / sigma,
        error_scale=lambda alpha, sigma: alpha / sigma,
    ),
    "v": _Row(
        target=lambda x, epsilon, alpha, sigma: alpha * epsilon - sigma * x,
        to_x=lambda p, z, alpha, sigma: alpha * z - sigma * p,
        to_epsilon=lambda p, z, alpha, sigma: sigma * z + alpha * p,
        error_scale=lambda alpha, sigma: alpha,
    ),
    "score": _Row(
        target=lambda x, epsilon, alpha, sigma: -epsilon / sigma,
        to_x=lambda p, z, alpha, sigma: (z + sigma.square() * p) / alpha,
        to_epsilon=lambda p, z, alpha, sigma: -sigma * p,
        error_scale=lambda alpha, sigma: sigma,
    ),
}


def check_prediction(prediction: str) -> None:
    """Raise ValueError, with the known names, unless ``prediction`` is one of them."""
    if prediction not in _TABLE:
        raise ValueError(f"unknown prediction {prediction!r}: give one of {', '.join(_TABLE)}")


def to_x(p: Tensor, z: Tensor, gamma: Tensor, prediction: Prediction) -> Tensor:
    """x_hat (B,C,H,W) from the prediction ``p`` at ``z``, both (B,C,H,W), and ``gamma`` (B,)."""
    return _TABLE[prediction].to_x(p, z, *alpha_sigma(gamma, like=z))


def to_epsilon(p: Tensor, z: Tensor, gamma: Tensor, prediction: Prediction) -> Tensor:
    """epsilon_hat (B,C,H,W) from the prediction ``p`` at ``z``, and ``gamma`` (B,)."""
    return _TABLE[prediction].to_epsilon(p, z, *alpha_sigma(gamma, like=z))


def convert(
    p: Tensor, z: Tensor, gamma: Tensor, *, source: Prediction, target: Prediction
) -> Tensor:
    """The prediction ``p`` of kind ``source`` as one of kind ``target``, (B,C,H,W)."""
    if source == target:
        return p
    x, epsilon = to_x(p, z, gamma, source), to_epsilon(p, z, gamma, source)
    return _TABLE[target].target(x, epsilon, *alpha_sigma(gamma, like=z))


def noise_error(
    p: Tensor, x: Tensor, epsilon: Tensor, gamma: Tensor, prediction: Prediction
) -> Tensor:
    """epsilon - epsilon_hat up to its sign, (B,C,H,W), from a prediction ``p`` of any kind."""
    alpha, sigma = alpha_sigma(gamma, like=x)
    row = _TABLE[prediction]
    return (row.target(x, epsilon, alpha, sigma) - p) * row.error_scale(alpha, sigma)


def squared_error(
    p: Tensor, x: Tensor, epsilon: Tensor, gamma: Tensor, prediction: Prediction
) -> Tensor:
    """|epsilon - epsilon_hat|^2 of each example, (B,), from a prediction of any kind."""
    return noise_error(p, x, epsilon, gamma, prediction).square().flatten(1).sum(1)
