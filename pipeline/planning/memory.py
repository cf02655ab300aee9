"""What a worker's device holds in training, and at most, at each ZeRO stage.

Bytes for each of P parameters among N workers (Rajbhandari et al. 2020, section 5, with the
precision of this project: float32 weights under autocast). Stage 0 holds weights 4 and Adam's
moments 8; stages 1 and 2 weights 4 and (master weights 4 + moments 8)/N; stage 3 all of that and
gradients 4 over N. Each moving average is 4/N at any stage. On top come DeepSpeed's buckets and,
one after the other, the two passes and the update.
"""

from typing import Any, Literal, NamedTuple

from pipeline.config.train import TrainConfig
from pipeline.planning.activations import PassMemory
from pipeline.training.deepspeed_json import bucket_size

ZeroStage = Literal[0, 1, 2, 3]
_LIVE, _PREFETCH = 1_000_000_000, 50_000_000


class Sharding(NamedTuple):
    """How the state lies on the workers.

    `averages`: number of moving averages. `bucket`: elements of DeepSpeed's buffers for
    reductions (None: this project's choice), with `bucket_bytes` for an element in all of them.
    `live`: weights that stage 3 has gathered at once, `prefetch`: those under way, `sent` bytes
    for each. `offload`: the optimizer is in the hosts' memory.
    """

    stage: ZeroStage
    workers: int
    averages: int
    accumulation: int
    bucket: int | None = None
    bucket_bytes: int = 4
    live: int = _LIVE
    prefetch: int = _PREFETCH
    sent: int = 4
    offload: bool = False


class DeviceMemory(NamedTuple):
    """Bytes on one worker's device: held all the time, and what a step needs on top."""

    weights: float
    optimizer: float
    averages: float
    buffers: float
    passes: float
    update: float

    @property
    def held(self) -> float:
        """Between two steps."""
        return self.weights + self.optimizer + self.averages + self.buffers

    @property
    def peak(self) -> float:
        """The most in a step: passes and update follow each other."""
        return self.held + max(self.passes, self.update)


def device_memory(parameters: int, passes: PassMemory, sharding: Sharding) -> DeviceMemory:
    """The memory of a worker whose micro-batch takes `passes`.

    During the update stages 0 to 2 hold the gradient, of the whole or this worker's part, and a
    flat copy of it; stage 3 a copy. DeepSpeed's buckets are there during the passes, at stage 3
    always, and with them its gradients.
    """
    whole, stage = 4.0 * parameters, sharding.stage
    share = whole / sharding.workers
    bucket = sharding.bucket or bucket_size(parameters)
    buckets = 0.0 if stage == 0 else float(bucket * sharding.bucket_bytes)
    growing = whole + passes.without if sharding.accumulation > 1 else passes.growing
    copy = gathered = 0.0
    if sharding.workers > 1:  # one worker's part is the whole
        copy = share
        gathered = 4.0 * min(parameters, sharding.live)
        gathered += sharding.sent * min(parameters, sharding.prefetch)
    needed, update = {
        0: (growing, 2 * whole),
        1: (growing + copy + buckets, 2 * share),
        2: (share + passes.without + buckets, 2 * share),
        3: (gathered + passes.without, share),
    }[stage]
    on_device = 0.0 if sharding.offload else 1.0
    return DeviceMemory(
        weights=share if stage == 3 else whole,
        optimizer=on_device * (2 * whole if stage == 0 else 3 * share),
        averages=on_device * sharding.averages * share,
        buffers=share + buckets if stage == 3 else 0.0,
        passes=needed,
        update=on_device * update,
    )


def sharding_of(config: TrainConfig, workers: int, stage: ZeroStage | None = None) -> Sharding:
    """As `config` has it on so many workers; at another ZeRO stage, if one is given."""
    zero: dict[str, Any] = config.deepspeed.config.get("zero_optimization", {})
    stage = config.deepspeed.zero_stage if stage is None else stage
    bfloat16 = config.deepspeed.precision == "bfloat16"
    element = 6 if bfloat16 else 4  # autocast has a bfloat16 bucket and a float32 one, for γ
    doubled = stage in (1, 2) and bool(zero.get("overlap_comm"))
    offload = zero.get("offload_optimizer") or {}
    return Sharding(
        stage=stage,
        workers=workers,
        averages=len(config.optimizer.ema),
        accumulation=max(1, config.data.batch_size // (workers * config.micro_batch)),
        bucket=zero.get("reduce_bucket_size"),
        bucket_bytes=element * (2 if doubled else 1),
        live=int(zero.get("stage3_max_live_parameters", _LIVE)),
        prefetch=int(zero.get("stage3_prefetch_bucket_size", _PREFETCH)),
        sent=2 if bfloat16 else 4,
        offload=stage > 0 and offload.get("device") == "cpu",
    )
