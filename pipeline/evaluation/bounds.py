"""What an evaluation may compute beside its default bound: one figure per image under each name.

All but the profile are totals in nats. They go by the image's place in the split alone, so they do
not depend on how the work is cut.
"""

import torch
from torch import Tensor

from pipeline.config.evaluate import EvaluateConfig, FigureName
from pipeline.config.ladder import HierarchicalVAEConfig, VAEConfig
from pipeline.config.model import ModelConfig
from pipeline.errors import InputError
from pipeline.model.export import ModelCard
from vdm_core import VDM
from vdm_core.likelihood import (
    DormandPrince,
    continuous_bound,
    discrete_bound,
    error_profile,
    importance_weighted_bound,
    ode_nll,
)


def bound_steps(config: EvaluateConfig, card: ModelCard) -> int | None:
    """T of the figures that need one; None where neither request nor model says."""
    return config.bounds.steps or config.steps or card.model.steps


def check_figures(config: EvaluateConfig, card: ModelCard) -> None:
    """Refuse what the model cannot be asked.

    Raises:
        InputError: T steps or a figure of a VDM of pixels, of a model that is none; a figure of T
            steps and no T, or one that needs one γ for all pixels.
    """
    if config.steps is not None and isinstance(card.model, VAEConfig | HierarchicalVAEConfig):
        raise InputError(
            f"steps={config.steps}: {card.run} is a {card.model.kind}, which has no time; leave it "
            "out"
        )
    if config.bounds.compute and not isinstance(card.model, ModelConfig):
        raise InputError(
            f"bounds.compute: {', '.join(config.bounds.compute)} are figures of a VDM of pixels, "
            f"and {card.run} is a {card.model.kind}; leave them out: its own bound is always taken"
        )
    schedule = card.model.schedule
    for name in config.bounds.compute:
        if name in ("discrete", "importance") and bound_steps(config, card) is None:
            raise InputError(
                f"bounds.compute: {name} is a bound of T steps, and the model has continuous "
                "time; set bounds.steps"
            )
        if name in ("ode", "profile") and schedule is not None and schedule.per_pixel:
            raise InputError(
                f"bounds.compute: {name} needs one γ for all pixels, and this model's schedule "
                f"({schedule.kind}) has one for each; leave it out"
            )


def figure_of_images(
    name: FigureName,
    vdm: VDM,
    images: Tensor,
    indices: Tensor,
    labels: Tensor | None,
    config: EvaluateConfig,
    steps: int | None,
) -> Tensor:
    """(B,) in nats; of the profile, |ε - ε̂|² at each of `profile_gammas`, (B,N).

    `images`: (B,C,H,W) uint8. `indices`: (B,) int64, places in the split. `steps`: `bound_steps`,
    which `check_figures` has found where it is needed. Raises InputError where the ODE's solver
    does not arrive.
    """
    bounds, seed = config.bounds, config.seed
    of_steps = steps or 0
    match name:
        case "discrete":
            return discrete_bound(vdm, images, indices, labels, steps=of_steps, seed=seed).total
        case "continuous":
            draws = bounds.continuous_draws
            return continuous_bound(vdm, images, indices, labels, draws=draws, seed=seed).total
        case "ode":
            return _ode(vdm, images, indices, labels, config)
        case "importance":
            draws = bounds.importance_draws
            return importance_weighted_bound(
                vdm, images, indices, labels, steps=of_steps, draws=draws, seed=seed
            )
        case "profile":
            gammas = profile_gammas(vdm, bounds.profile_points).to(images.device)
            return error_profile(vdm, images, indices, labels, gammas=gammas, seed=seed)


def _ode(
    vdm: VDM, images: Tensor, indices: Tensor, labels: Tensor | None, config: EvaluateConfig
) -> Tensor:
    """(B,) nats. Raises InputError where the solver does not arrive."""
    bounds, tolerance = config.bounds, config.bounds.ode_tolerance
    try:
        return ode_nll(
            vdm,
            images,
            indices,
            labels,
            dequantisation=bounds.dequantisation,
            draws=bounds.ode_draws,
            solver=DormandPrince(rtol=tolerance, atol=tolerance),
            seed=config.seed,
        )
    except ValueError as error:
        raise InputError(f"bounds.ode_tolerance is {tolerance:g}: {error}") from error


def meaning(name: FigureName, config: EvaluateConfig, steps: int | None) -> str:
    """What a figure is, beside its number."""
    bounds = config.bounds
    match name:
        case "discrete":
            return f"bound at T = {steps}, all steps"
        case "continuous":
            return f"bound in continuous time, times per image: {bounds.continuous_draws}"
        case "ode":
            return (
                "NLL of the probability-flow ODE (another model: not a bound of this one), "
                f"{bounds.dequantisation} dequantisation, draws: {bounds.ode_draws}"
            )
        case "importance":
            return f"importance-weighted bound at T = {steps}, K = {bounds.importance_draws}"
        case "profile":
            return f"diffusion term over γ at {bounds.profile_points} points"


def profile_gammas(vdm: VDM, points: int) -> Tensor:
    """`points` values of γ, evenly from γ(0) to γ(1) of the model: (N,) float64 on the CPU."""
    times = torch.arange(2, dtype=torch.float64, device=next(vdm.parameters()).device)
    with torch.no_grad():
        gamma_0, gamma_1 = vdm.schedule(times).gamma.tolist()
    return torch.linspace(gamma_0, gamma_1, points, dtype=torch.float64)
