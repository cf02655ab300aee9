"""AdamW's parameter groups and the learning-rate curve."""

import math
from typing import Any

import torch

from pipeline.config.train import OptimizerConfig
from pipeline.model.family import Model


def parameter_groups(model: Model, config: OptimizerConfig) -> list[dict[str, Any]]:
    """Kernels (decayed), norms and biases (not) and, if there is one, the schedule (own rate, not).

    Decay on the schedule would pull the ends of γ towards 0.
    """
    own = [] if model.schedule is None else list(model.schedule.parameters())
    taken = {id(parameter) for parameter in own}
    rest = [parameter for parameter in model.parameters() if id(parameter) not in taken]
    groups = [
        ("kernels", [p for p in rest if p.ndim > 1], config.learning_rate, config.weight_decay),
        ("norms_and_biases", [p for p in rest if p.ndim <= 1], config.learning_rate, 0.0),
        ("schedule", own, config.schedule_learning_rate or config.learning_rate, 0.0),
    ]
    return [
        {"name": name, "params": params, "lr": rate, "weight_decay": decay}
        for name, params, rate, decay in groups
        if params
    ]


def adamw(model: Model, config: OptimizerConfig) -> torch.optim.AdamW:
    """The optimizer that DeepSpeed shards; fused: a whole group in one kernel, on GPU and CPU."""
    return torch.optim.AdamW(
        parameter_groups(model, config), betas=config.betas, eps=config.eps, fused=True
    )


def learning_rate_scale(step: int, config: OptimizerConfig, total_steps: int) -> float:
    """Factor on every group's rate at `step` (0-based): linear warm-up, then constant or cosine."""
    warm = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.decay == "constant":
        return warm
    span = max(1, total_steps - config.warmup_steps)
    progress = min(1.0, max(0.0, (step - config.warmup_steps) / span))
    return warm * 0.5 * (1.0 + math.cos(math.pi * progress))
