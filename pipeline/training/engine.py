"""DeepSpeed: the only file that imports it.

The engine wraps the whole model. Parameters stay float32 at every ZeRO stage (bfloat16 is autocast
around the network), so the schedule, the decoder and the ELBO keep their precision.
"""

import os
import warnings
from collections.abc import Mapping
from datetime import timedelta
from functools import partial
from typing import Any, cast

import torch

if not torch.cuda.is_available():  # said before the import, which would warn about its absence
    os.environ.setdefault("DS_ACCELERATOR", "cpu")

import deepspeed
import torch.distributed as dist
from torch import Tensor

from pipeline.checkpoint.fragment import MOMENTS, WEIGHTS, Fragment
from pipeline.config.train import TrainConfig
from pipeline.model.family import Model
from pipeline.training.compiled import compile_networks
from pipeline.training.deepspeed_json import deepspeed_json
from pipeline.training.fragments import adam_state, assemble, holdings, masters
from pipeline.training.going_on import refresh_copies, set_counters, spread_replicas
from pipeline.training.optimizer import adamw, learning_rate_scale
from vdm_core.adaptive import at_prior_mean
from vdm_core.family import Terms
from vdm_core.records import SchedulePoint

warnings.filterwarnings(  # DeepSpeed calls these by names that newer versions of torch dislike
    "ignore",
    message=r".*(all_gather_into|reduce_scatter)_tensor.* is deprecated",
    category=FutureWarning,
)


class Engine:
    """One model under DeepSpeed: forward, backward, step, and its state in and out.

    `torch.distributed` must be initialised before (Ray Train does it). `deepspeed_json` is what
    DeepSpeed was told.
    """

    def __init__(self, model: Model, config: TrainConfig, device: torch.device) -> None:
        _no_shared_memory_extension(device)
        scale = partial(learning_rate_scale, config=config.optimizer, total_steps=config.steps)
        self.device = device
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
        self._buffers = model.state_dict().keys() - self.shapes.keys()
        self._stage = config.deepspeed.zero_stage
        self._norm: Tensor | None = None
        self.deepspeed_json = deepspeed_json(config, sum(s.numel() for s in self.shapes.values()))
        self._clipping = config.optimizer.gradient_clipping
        without_clipping = {"gradient_clipping": 0.0} if self._stage == 0 else {}  # see _clip
        _leave_norms_on_the_device()
        self._engine, _, _, _ = deepspeed.initialize(
            model=model.to(device),
            optimizer=adamw(model, config.optimizer),
            lr_scheduler=lambda optimizer: torch.optim.lr_scheduler.LambdaLR(optimizer, scale),
            config=self.deepspeed_json | without_clipping,
            dist_init_required=False,
        )
        self._wait_at_most(config.cluster.collective_timeout_seconds)
        self._check_float32()
        for island in self.model.islands:
            self._exchange_in_float32(island)
        self._holdings = holdings(self._engine, self._stage)
        self._check_cover()
        self._weights = self.fragments(WEIGHTS)
        self._adam.register_step_pre_hook(self._spare_the_weights)
        if config.deepspeed.compile:
            compile_networks(self.model.networks)

    def __call__(self, images: Tensor, labels: Tensor | None, **arguments: Any) -> Terms:
        """Return the per-example terms, in nats; arguments as for the model's `forward`."""
        return cast(Terms, self._engine(images, labels, **arguments))

    def backward(self, loss: Tensor) -> None:
        """Accumulate the gradient of a micro-batch's mean loss."""
        self._engine.backward(loss)

    def step(self) -> None:
        """Close a micro-batch; on the last one of a step, clip and update.

        No gradient that is not finite reaches the weights: Adam leaves such an update out, which
        is decided on the device.
        """
        if self._stage == 0 and self._engine.is_gradient_accumulation_boundary():
            self._clip()
        self._engine.step()

    def _clip(self) -> None:
        """At stage 0, where DeepSpeed keeps no norm and would clip tensor by tensor."""
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        self._norm = torch.nn.utils.get_total_norm(
            [p.grad for p in parameters if p.grad is not None], foreach=True
        )
        if self._clipping > 0:
            torch.nn.utils.clip_grads_with_norm_(
                parameters, self._clipping, self._norm, foreach=True
            )

    def _spare_the_weights(self, adam: Any, *_: Any) -> None:
        """Before Adam's step: tell it, on the device, whether the gradient is finite."""
        if self._stage > 0:
            self._norm = self._engine.optimizer._global_grad_norm
        adam.found_inf = 1.0 - torch.isfinite(cast(Tensor, self._norm)).float()

    @property
    def model(self) -> Model:
        """The wrapped module (its parameters are partitioned at ZeRO stage 3)."""
        return cast(Model, self._engine.module)

    def schedule_at(self, times: Tensor) -> SchedulePoint | None:
        """γ and its slope at `times` (N,), on the CPU, without gradient, as `at_prior_mean`.

        None for a model without a schedule. Collective at ZeRO stage 3.
        """
        schedule = self.model.schedule
        if schedule is None:
            return None
        with torch.no_grad():
            point = at_prior_mean(schedule, times.to(self.device))
        return SchedulePoint(point.gamma.cpu(), point.slope.cpu())

    @property
    def gradient_norm(self) -> float:
        """Global gradient norm of the last step, before clipping. Waits for the device.

        Raises RuntimeError before the first step.
        """
        return float(self._norm_of_step)

    @property
    def gradient_is_finite(self) -> Tensor:
        """Of the last step, on all ranks: () bool on the device. Raises as `gradient_norm`."""
        return torch.isfinite(self._norm_of_step)

    @property
    def _norm_of_step(self) -> Tensor:
        if self._norm is None:
            raise RuntimeError("there is no gradient norm before the first step")
        return self._norm

    @property
    def learning_rates(self) -> dict[str, float]:
        """Learning rate of the step to come, by parameter group."""
        groups = self._engine.optimizer.param_groups
        return {group["name"]: float(group["lr"]) for group in groups}

    def fragments(self, kind: str) -> list[Fragment]:
        """This rank's share of the weights, or of a moment of Adam ("exp_avg", "exp_avg_sq").

        Views of the state itself. All ranks' fragments cover every parameter exactly once.
        """
        if kind == WEIGHTS:
            return [held.of(held.master) for held in self._holdings]
        return [held.of(adam_state(self._adam, held.master)[kind]) for held in self._holdings]

    def weights(self) -> list[Tensor]:
        """The tensors of this rank's share of the weights, as they are now and will become."""
        return [fragment.tensor for fragment in self._weights]

    def gather(self, tensors: list[Tensor]) -> dict[str, Tensor]:
        """A whole state dict on rank 0's CPU from tensors laid out as `weights`. Collective.

        What is no parameter (a fixed schedule's ends) is copied from the module. Empty on the
        other ranks.
        """
        pairs = zip(self._weights, tensors, strict=True)
        mine = {fragment.name: fragment._replace(tensor=tensor) for fragment, tensor in pairs}
        full = self.buffers()
        for name, shape in self.shapes.items():
            whole = assemble(mine.get(name), shape, self.device, everywhere=False)
            if dist.get_rank() == 0:
                full[name] = whole.to("cpu", copy=True)
        return full if dist.get_rank() == 0 else {}

    def buffers(self) -> dict[str, Tensor]:
        """Copies on the CPU of what is no parameter, such as the ends of a fixed schedule."""
        named = self.model.named_buffers()
        return {n: buffer.to("cpu", copy=True) for n, buffer in named if n in self._buffers}

    def load_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """The inverse of `buffers`."""
        for name, buffer in self.model.named_buffers():
            if name in self._buffers:
                buffer.copy_(buffers[name])

    @property
    def optimizer_steps(self) -> int:
        """Updates that Adam has made."""
        return int(self._engine.lr_scheduler.last_epoch)

    def resume(self, step: int, optimizer_steps: int) -> None:
        """Go on after `step` with the weights and moments that were written into `fragments`.

        Brings whatever depends on them in line: replicas, gathered copies, Adam's count, the
        learning rates, DeepSpeed's counters. Collective.
        """
        if self._stage == 0:
            for kind in (WEIGHTS, *MOMENTS):
                spread_replicas(self.fragments(kind), self._replicas(kind), self.device)
        else:
            refresh_copies(self._engine, self._stage)
        for master in masters(self._engine, self._stage):
            adam_state(self._adam, master)["step"].fill_(optimizer_steps)
        set_counters(self._engine, step, optimizer_steps)

    def _replicas(self, kind: str) -> dict[str, Tensor]:
        """At stage 0: the whole of what `kind` says, by parameter."""
        named = self.model.named_parameters()
        if kind == WEIGHTS:
            return {name: parameter.data for name, parameter in named}
        return {name: adam_state(self._adam, parameter)[kind] for name, parameter in named}

    @property
    def _adam(self) -> torch.optim.Optimizer:
        optimizer = self._engine.optimizer
        return cast(torch.optim.Optimizer, optimizer if self._stage == 0 else optimizer.optimizer)

    def _wait_at_most(self, seconds: float) -> None:
        """DeepSpeed's own process group comes with torch's time-out: 10 minutes, 30 over gloo."""
        group = self._engine.seq_data_parallel_group
        dist.distributed_c10d._set_pg_timeout(timedelta(seconds=seconds), group)

    def _check_float32(self) -> None:
        wrong = [
            f"{name} ({parameter.dtype})"
            for name, parameter in self.model.named_parameters()
            if parameter.dtype != torch.float32
        ]
        if wrong:
            raise RuntimeError(
                f"the engine changed the precision of {', '.join(wrong[:3])}; γ and the ELBO need "
                "float32 parameters: use deepspeed.precision=bfloat16, not a bf16 block"
            )

    def _exchange_in_float32(self, island: torch.nn.Module) -> None:
        """Under autocast DeepSpeed sums gradients, and at stage 3 gathers weights, in bfloat16."""
        for parameter in island.parameters():
            if hasattr(parameter, "comm_dtype"):
                cast(Any, parameter).comm_dtype = torch.float32

    def _check_cover(self) -> None:
        held = torch.tensor(sum(part.length for part in self._holdings), device=self.device)
        dist.all_reduce(held)
        whole = sum(shape.numel() for shape in self.shapes.values())
        if int(held) != whole:
            raise RuntimeError(
                f"the workers together hold {int(held):,} of the model's {whole:,} elements: this "
                "partition by DeepSpeed is not known here; leave it out of deepspeed.config"
            )


def _no_shared_memory_extension(device: torch.device) -> None:
    """Keep DeepSpeed from compiling its CPU all-reduce (a killed build leaves a lock for ever)."""
    if device.type == "cpu":
        operators: dict[str, Any] = deepspeed.ops.__compatible_ops__
        operators["deepspeed_shm_comm"] = False


def _leave_norms_on_the_device() -> None:
    """Keep DeepSpeed from waiting, several times a step, to look whether the norm is finite.

    Without its look such a norm is infinite, and Adam is told to leave the update out.
    """
    for module in (deepspeed.runtime.zero.stage_1_and_2, deepspeed.runtime.zero.stage3):
        module.is_invalid_grad_norm = lambda norm: False
