"""The DeepSpeed JSON of a run: the user's part untouched, "auto" filled in, contradictions refused.

DeepSpeed itself accepts unknown top-level keys silently (a typo in `gradient_clipping` clips at
1.0), so the keys are checked here.
"""

import difflib
from typing import Any

from pipeline.config.train import TrainConfig
from pipeline.errors import InputError

TOP_LEVEL_KEYS = frozenset(
    [
        "activation_checkpointing",
        "aio",
        "autotuning",
        "bf16",
        "check_overflow",
        "checkpoint",
        "comms_logger",
        "communication_data_type",
        "compile",
        "compression_training",
        "csv_monitor",
        "curriculum_learning",
        "data_efficiency",
        "data_types",
        "disable_allgather",
        "disable_python_gc",
        "dump_state",
        "eigenvalue",
        "flops_profiler",
        "fp16",
        "fp32_allreduce",
        "gradient_accumulation_steps",
        "gradient_allreduce_op",
        "gradient_clipping",
        "gradient_predivide_factor",
        "hybrid_engine",
        "log_level",
        "memory_breakdown",
        "prescale_gradients",
        "seq_parallel_communication_data_type",
        "sparse_gradients",
        "steps_per_print",
        "tensorboard",
        "timers",
        "torch_autocast",
        "train_batch_size",
        "train_micro_batch_size_per_gpu",
        "use_data_before_expert_parallelism",
        "wall_clock_breakdown",
        "wandb",
        "zero_allow_untested_optimizer",
        "zero_force_ds_cpu_optimizer",
        "zero_optimization",
    ]
)
REFUSED = {
    "optimizer": "the optimizer has a group of its own for the noise schedule; set optimizer.*",
    "scheduler": "set optimizer.warmup_steps and optimizer.decay",
    "amp": "set deepspeed.precision=bfloat16",
    "fp16": "float16 would round γ; set deepspeed.precision=bfloat16",
    "bf16": "bf16 casts every parameter, γ too (-13.3 becomes -13.3125); "
    "set deepspeed.precision=bfloat16, which is autocast over float32 parameters",
}
REFUSED_ZERO = {
    "offload_param": "parameters that leave the device have no place in a checkpoint; offload the "
    "optimizer instead: {offload_optimizer: {device: cpu}}",
    "mics_shard_size": "checkpoints know ZeRO's partition over all workers only",
    "zero_hpz_partition_size": "checkpoints know ZeRO's partition over all workers only",
}


def deepspeed_json(config: TrainConfig, parameters: int | None = None) -> dict[str, Any]:
    """Return the complete JSON for `deepspeed.initialize`.

    `parameters`, the size of the model, bounds DeepSpeed's buffers for gradients, which it takes
    in each step at their full size, whatever the model's; None leaves them to DeepSpeed.

    Raises:
        InputError: an unknown top-level key, a block that this project sets itself, or a value
            that contradicts another field of the configuration.
    """
    user = config.deepspeed.config
    problems = [_unknown(key) for key in user if key not in TOP_LEVEL_KEYS and key not in REFUSED]
    problems += [f"deepspeed.config.{key}: {why}" for key, why in REFUSED.items() if key in user]
    problems += _refused_zero(user.get("zero_optimization", {}))
    ours: dict[str, Any] = {
        "train_batch_size": config.data.batch_size,
        "train_micro_batch_size_per_gpu": config.micro_batch,
        "gradient_accumulation_steps": config.accumulation,
        "gradient_clipping": config.optimizer.gradient_clipping,
        "zero_optimization": {"stage": config.deepspeed.zero_stage},
        "zero_force_ds_cpu_optimizer": False,  # offload works with torch's AdamW
        "steps_per_print": 1_000_000_000,
        "torch_autocast": {
            "enabled": config.deepspeed.precision == "bfloat16",
            "dtype": "bfloat16",
        },
    }
    merged = _merge(ours, user, "deepspeed.config", problems)
    if problems:
        raise InputError("DeepSpeed JSON:\n  " + "\n  ".join(problems))
    if parameters is not None:
        merged["zero_optimization"].setdefault("reduce_bucket_size", bucket_size(parameters))
    return merged


def bucket_size(parameters: int) -> int:
    """Elements of a gradient that are reduced at once: DeepSpeed's own number, or all there are."""
    return min(500_000_000, parameters)


def _refused_zero(user: Any) -> list[str]:
    if not isinstance(user, dict):
        return []  # it contradicts ours
    place, offload = "deepspeed.config.zero_optimization", user.get("offload_optimizer")
    problems = [f"{place}.{key}: {why}" for key, why in REFUSED_ZERO.items() if key in user]
    if isinstance(offload, dict) and offload.get("device") == "nvme":
        problems.append(f"{place}.offload_optimizer.device: nvme is not supported; use cpu")
    return problems


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key, TOP_LEVEL_KEYS | REFUSED.keys(), n=1)
    return f"deepspeed.config.{key}: unknown key" + (f"; did you mean {near[0]}?" if near else "")


def _merge(
    ours: dict[str, Any], user: dict[str, Any], place: str, problems: list[str]
) -> dict[str, Any]:
    merged = dict(ours)
    for key, value in user.items():
        own = ours.get(key, {})
        if isinstance(value, dict) and isinstance(own, dict):
            merged[key] = _merge(own, value, f"{place}.{key}", problems)
        elif key == "steps_per_print" or key not in ours:
            if value == "auto":
                problems.append(f'{place}.{key}: "auto" has no source in this configuration')
            merged[key] = value
        elif value not in ("auto", ours[key]):
            problems.append(
                f"{place}.{key}: {value!r} contradicts {ours[key]!r} from the other fields; "
                'leave it out or write "auto"'
            )
    return merged
