"""Guidance: ways to turn one denoiser into another that follows its label, or its data, more.

A guidance is any function from denoiser to denoiser, and samplers know denoisers only. So guidances
compose by application, `second(first(denoiser))`, and each may be limited to an interval of gamma
(Kynkäänniemi et al. 2024): elsewhere it answers as the denoiser it was given, and costs nothing.
The guided epsilon_hat is not the score of a known density: it samples a law of its own.

How they compose. Two of a kind multiply or add: ClassifierFree(a) on ClassifierFree(b) is
ClassifierFree(a b), Classifier(c, a) on Classifier(c, b) is Classifier(c, a + b). ClassifierFree on
Classifier scales the classifier's share too, since that is part of the conditional half alone;
Classifier on ClassifierFree does not.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vdm_core.denoiser import Denoiser, Gamma, coefficients, epsilon_denoiser, per_example
from vdm_core.diffusion import image_mean
from vdm_core.labels import NO_LABEL, check_labels
from vdm_core.vdm import VDM

Guidance = Callable[[Denoiser], Denoiser]
"""denoiser -> guided denoiser."""

Scale = float | Tensor
"""w: one finite number for all examples, or (B,), one for each."""

GammaInterval = tuple[float, float] | None
"""(lowest, highest) gamma at which to guide, both included; None is everywhere."""


@dataclass(frozen=True)
class ClassifierFree:
    """Classifier-free guidance (Ho and Salimans 2022, with the weight w = 1 + their w).

    epsilon = w epsilon_hat(z, y) + (1 - w) epsilon_hat(z): w = 1 is the plain conditional model,
    w = 0 the unconditional one, w > 1 moves away from what is common to all classes. Both halves
    run as one batch of 2 B, the second with label -1; at w = 0 and w = 1 one half is enough.

    Args:
        scale: w, any finite number, or (B,): one for each example.
        gamma_interval: where to guide.

    Raises:
        ValueError: scale is not finite, the interval is empty, or the guided denoiser is called
            without labels.
    """

    scale: Scale
    gamma_interval: GammaInterval = None

    def __post_init__(self) -> None:
        _check_arguments("ClassifierFree", self.scale, self.gamma_interval)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """Return the guided denoiser."""

        def guided(z: Tensor, gamma: Gamma, labels: Tensor | None) -> Tensor:
            labels = _required(labels, "classifier-free guidance")
            if _is(self.scale, 1.0) or not _inside(self.gamma_interval, gamma):
                return denoiser(z, gamma, labels)
            null = torch.full_like(labels, NO_LABEL)
            if _is(self.scale, 0.0):
                return denoiser(z, gamma, null)
            both = denoiser(torch.cat([z, z]), _twice(gamma), torch.cat([labels, null]))
            conditional, unconditional = both.chunk(2)
            return torch.lerp(unconditional, conditional, _as_factor(self.scale, z))

        return guided


@dataclass(frozen=True)
class Classifier:
    """Guidance by a classifier of noisy latents (Dhariwal and Nichol 2021, algorithm 2).

    epsilon = epsilon_hat - w sigma grad_z log p(y | z, gamma), for a network with classes or
    without. Rows with label -1 are not guided. At w = 0 the classifier is not asked.

    Args:
        classifier: any function (z (B,C,H,W), gamma (B,)) -> logits (B,K), differentiable in z, in
            evaluation mode if it is a module.
        scale: w, any finite number, or (B,): one for each example; 1 is Bayes' rule.
        gamma_interval: where to guide.

    Raises:
        ValueError: scale is not finite, the interval is empty, the classifier is in training mode,
            or the guided denoiser is called without labels or with one that is none of K classes.
    """

    classifier: Callable[[Tensor, Tensor], Tensor]
    scale: Scale
    gamma_interval: GammaInterval = None

    def __post_init__(self) -> None:
        _check_arguments("Classifier", self.scale, self.gamma_interval)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """Return the guided denoiser."""
        _check_evaluating("Classifier", self.classifier)

        def guided(z: Tensor, gamma: Gamma, labels: Tensor | None) -> Tensor:
            labels = _required(labels, "classifier guidance")
            epsilon = denoiser(z, gamma, labels)
            if _is(self.scale, 0.0) or not _inside(self.gamma_interval, gamma):
                return epsilon
            _, sigma = coefficients(gamma)
            return epsilon - (_as_factor(self.scale, z) * sigma) * self._gradient(z, gamma, labels)

        return guided

    def _gradient(self, z: Tensor, gamma: Gamma, labels: Tensor) -> Tensor:
        """grad_z log p(y | z, gamma), (B,C,H,W); zero in rows without a label."""
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            logits = self.classifier(z, image_mean(per_example(gamma, z))).to(z.dtype)
            check_labels(labels, logits.shape[1])
            log_prob = logits.log_softmax(1).gather(1, labels.clamp(min=0)[:, None])[:, 0]
            log_prob = log_prob.masked_fill(labels == NO_LABEL, 0.0)
            (gradient,) = torch.autograd.grad(log_prob.sum(), z)
        return gradient


@dataclass(frozen=True)
class Autoguidance:
    """Guidance by a weaker version of the same model (Karras et al. 2024).

    epsilon = w epsilon_hat + (1 - w) epsilon_weaker, both with the same label if there is one:
    w > 1 moves away from the errors that the weaker one makes more of; w = 1 is the model itself,
    and then the weaker one is not asked.

    Args:
        weaker: a denoiser, or a VDM in evaluation mode: smaller, or trained for less long.
        scale: w, any finite number, or (B,): one for each example.
        gamma_interval: where to guide.

    Raises:
        ValueError: scale is not finite, the interval is empty, or a module is in training mode.
    """

    weaker: VDM | Denoiser
    scale: Scale
    gamma_interval: GammaInterval = None

    def __post_init__(self) -> None:
        _check_arguments("Autoguidance", self.scale, self.gamma_interval)

    def __call__(self, denoiser: Denoiser) -> Denoiser:
        """Return the guided denoiser."""
        _check_evaluating("Autoguidance", self.weaker)
        weaker = epsilon_denoiser(self.weaker) if isinstance(self.weaker, VDM) else self.weaker

        def guided(z: Tensor, gamma: Gamma, labels: Tensor | None) -> Tensor:
            epsilon = denoiser(z, gamma, labels)
            if _is(self.scale, 1.0) or not _inside(self.gamma_interval, gamma):
                return epsilon
            return torch.lerp(weaker(z, gamma, labels), epsilon, _as_factor(self.scale, z))

        return guided


def _inside(interval: GammaInterval, gamma: Gamma) -> bool:
    if interval is None:
        return True
    if isinstance(gamma, Tensor):
        raise ValueError(
            f"gamma_interval {interval} is of one gamma for all pixels, and this schedule has one "
            "for each: leave it out"
        )
    return interval[0] <= gamma <= interval[1]


def _twice(gamma: Gamma) -> Gamma:
    """gamma for two batches in one."""
    if isinstance(gamma, Tensor) and len(gamma) > 1:
        return torch.cat([gamma, gamma])
    return gamma


def _is(scale: Scale, number: float) -> bool:
    """Whether all examples have this scale, as far as the host knows."""
    return not isinstance(scale, Tensor) and scale == number


def _as_factor(scale: Scale, z: Tensor) -> Scale:
    """The scale as something to multiply z with, (B,1,1,1) where each example has its own."""
    return scale.to(z)[:, None, None, None] if isinstance(scale, Tensor) else scale


def _check_arguments(name: str, scale: Scale, interval: GammaInterval) -> None:
    if isinstance(scale, Tensor):
        if scale.device.type == "cpu" and not scale.isfinite().all():
            raise ValueError(f"{name}: scale holds numbers that are not finite")
    elif not math.isfinite(scale):
        raise ValueError(f"{name}: scale is {scale}; give a finite number")
    if interval is not None and not interval[0] < interval[1]:
        raise ValueError(f"{name}: gamma_interval {interval} is empty; give (lowest, highest)")


def _check_evaluating(name: str, model: object) -> None:
    if isinstance(model, nn.Module) and model.training:
        raise ValueError(
            f"{name}: {type(model).__name__} is in training mode; call its eval() first"
        )


def _required(labels: Tensor | None, name: str) -> Tensor:
    if labels is None:
        raise ValueError(
            f"{name} needs labels: pass one class per sample, or sample without guidance"
        )
    return labels
