"""After a rank's share of the state was overwritten: whatever depends on it follows.

Only here and in `fragments.py` is DeepSpeed's inside touched.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pipeline.checkpoint.fragment import Fragment
from pipeline.training.fragments import assemble


def spread_replicas(
    owned: Sequence[Fragment], replicas: Mapping[str, Tensor], device: torch.device
) -> None:
    """ZeRO stage 0: give every rank the fragments of all. Collective."""
    mine = {fragment.name: fragment for fragment in owned}
    for name, replica in replicas.items():
        replica.copy_(assemble(mine.get(name), replica.shape, device, everywhere=True))


def refresh_copies(engine: Any, stage: int) -> None:
    """ZeRO stages 1 to 3: bring the weights that the forward pass reads in line. Collective."""
    optimizer = engine.optimizer
    if stage < 3:
        optimizer.update_lp_params()
        return
    optimizer.checkpoint_event_prologue()  # no parameter stays gathered
    for group in range(len(optimizer.fp32_partitioned_groups_flat)):
        optimizer._reassign_or_swap_out_partitioned_parameters(group)
    optimizer.checkpoint_event_epilogue()  # small ones are gathered again


def set_counters(engine: Any, step: int, optimizer_steps: int) -> None:
    """DeepSpeed's counters after `step`, and the learning rates after so many updates."""
    curve = engine.lr_scheduler
    curve.last_epoch, curve._step_count = optimizer_steps, optimizer_steps + 1
    groups = curve.optimizer.param_groups
    for group, rate, scale in zip(groups, curve.base_lrs, curve.lr_lambdas, strict=True):
        group["lr"] = rate * scale(optimizer_steps)
    curve._last_lr = [group["lr"] for group in groups]
    engine.global_steps = step
    engine.global_samples = step * engine.train_batch_size()
    engine.micro_steps = step * engine.gradient_accumulation_steps()
