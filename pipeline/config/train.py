"""Configuration of `jobs.train`."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from pipeline.config.average import AverageConfig
from pipeline.config.base import ConfigModel, JobConfig, RunName
from pipeline.config.data import Components, SelectConfig, TransformConfig
from pipeline.config.family import AnyModelConfig

Beta = Annotated[float, Field(ge=0, lt=1)]
Workers = Annotated[int, Field(gt=0)]


class DataConfig(ConfigModel):
    """The sharded training set and how it is streamed."""

    train: Components = Field(
        description="Folder or URL of a set made by jobs.prepare; or a list of {path, weight, "
        "select}, whose images are mixed in exactly these shares."
    )
    balance: Literal["classes"] | None = Field(
        None, description="classes: each class is seen equally often, whatever its size."
    )
    batch_size: int = Field(gt=0, description="Global batch: images per step over all workers.")
    micro_batch: int | None = Field(
        None, gt=0, description="Images per forward pass and worker; null is one pass per step."
    )
    lanes: int = Field(
        8,
        gt=0,
        description="Parallel reading positions; part of the order. Each image is read once where "
        "they are a multiple of cluster.workers x loader_workers, and the latter divide a "
        "worker's micro-batch.",
    )
    shuffle_window: int = Field(1024, gt=0, description="Samples shuffled together in a lane.")
    select: SelectConfig = SelectConfig()
    transform: TransformConfig = TransformConfig()
    loader_workers: int = Field(
        0,
        ge=0,
        description="Decoding processes per worker; 0 is a thread. The batches are the same.",
    )
    on_bad_sample: Literal["skip", "raise"] = "skip"
    max_bad_fraction: float = Field(0.01, ge=0, le=1, description="Above it the run stops.")


class OptimizerConfig(ConfigModel):
    """AdamW, with a group of its own for the schedule."""

    learning_rate: float = Field(2e-4, gt=0)
    schedule_learning_rate: float | None = Field(
        None, gt=0, description="For γ's parameters; null takes learning_rate."
    )
    betas: tuple[Beta, Beta] = (0.9, 0.99)
    eps: float = Field(1e-8, gt=0)
    weight_decay: float = Field(
        0.01, ge=0, description="On weight matrices and kernels only; never on γ, norms, biases."
    )
    warmup_steps: int = Field(100, ge=0)
    decay: Literal["constant", "cosine"] = "constant"
    gradient_clipping: float = Field(1.0, ge=0, description="Largest gradient norm; 0 is off.")
    ema: tuple[AverageConfig, ...] = Field(
        (AverageConfig(decay=0.9999),),
        min_length=1,
        description="Moving averages of all weights, as [{decay: 0.9999}, {width: 0.05}, "
        "{width: 0.1}]. The first is the one in pictures and, unless another is asked for, the "
        "model.",
    )

    @field_validator("ema")
    @classmethod
    def _each_once(cls, ema: tuple[AverageConfig, ...]) -> tuple[AverageConfig, ...]:
        names = [average.name for average in ema]
        if len(set(names)) < len(names):
            raise ValueError(f"the same average twice among {', '.join(names)}")
        return ema


class DeepSpeedConfig(ConfigModel):
    """How DeepSpeed shards and computes."""

    zero_stage: Literal[0, 1, 2, 3] = 1
    precision: Literal["float32", "bfloat16"] = Field(
        "float32", description="bfloat16 is autocast: parameters and γ stay float32."
    )
    compile: bool = Field(
        False,
        description="torch.compile for a VDM's network, at ZeRO stages 0 to 2; the first step of "
        "every start takes minutes longer. Workers need a C++ compiler.",
    )
    config: dict[str, Any] = Field(
        default_factory=dict, description="Further DeepSpeed JSON, passed through untouched."
    )

    @model_validator(mode="after")
    def _compiles_whole_graphs(self) -> "DeepSpeedConfig":
        if self.compile and self.zero_stage == 3:
            raise ValueError(
                "deepspeed.compile is for ZeRO stages 0 to 2: at stage 3 every layer gathers its "
                "weights, which no compiled graph of the network contains"
            )
        return self


class ClusterConfig(ConfigModel):
    """What is asked of Ray."""

    workers: Workers | tuple[Workers, Workers] = Field(
        1,
        description="Or [least, most]: the run takes what the cluster has, and grows and shrinks "
        "with it, each time from its newest checkpoint. The global batch stays the same.",
    )
    cpus_per_worker: float = Field(1, gt=0)
    gpus_per_worker: float = Field(0, ge=0, description="0 trains on the CPU with gloo.")
    gpu_memory_gib: float | None = Field(
        None,
        gt=0,
        description="What a GPU has for the run; a run that cannot fit into it is then refused.",
    )
    max_failures: int = Field(
        3,
        ge=0,
        description="Worker group restarts before giving up; two in a row in vain are enough.",
    )
    grace_seconds: float = Field(
        30, gt=0, description="After SIGTERM or Ctrl-C: time to save and leave before being cut."
    )
    wait_seconds: float = Field(
        0,
        ge=0,
        description="How long an autoscaling cluster may take to grow to the (least) workers; with "
        "0 a cluster that is too small is refused.",
    )
    collective_timeout_seconds: float = Field(
        1800, gt=0, description="A rank that keeps the others waiting longer fails the group."
    )
    start_timeout_seconds: float = Field(
        30, gt=0, description="Wait for nodes before asking Ray anew, without those that died."
    )

    @property
    def worker_counts(self) -> range:
        """Every number of workers that the run may find itself with."""
        least, most = self.workers if isinstance(self.workers, tuple) else (self.workers,) * 2
        return range(least, most + 1)

    @model_validator(mode="after")
    def _least_and_most(self) -> "ClusterConfig":
        if not self.worker_counts:
            raise ValueError(f"workers is {self.workers}: give [least, most]")
        return self


class CheckpointConfig(ConfigModel):
    """When state is saved and how much of it is kept."""

    every_steps: int = Field(1000, gt=0)
    keep: int = Field(2, gt=0, description="The newest so many stay.")
    keep_every: int | None = Field(
        None, gt=0, description="Those of steps that are multiples of it stay for ever."
    )
    keep_best: bool = Field(
        False, description="The one with the lowest training loss (bits/dim of the interval) stays."
    )
    ema_every: int | None = Field(
        None,
        gt=0,
        description="Steps between snapshots of the averages that have a width; they all stay, for "
        "averages of widths chosen after training. 16 in a run do for 1 % (from 0.05 and 0.1).",
    )
    retry_seconds: float = Field(
        60, ge=0, description="How long a save tries again while the storage refuses."
    )
    failures_allowed: int = Field(
        2,
        ge=0,
        description="Saves in a row that may fail with no more than an error in the log; one more "
        "stops the run. The last save of a run may not fail.",
    )


class TrackingConfig(ConfigModel):
    """MLflow, and when the pictures are drawn."""

    uri: str | None = Field(
        None, description="MLflow store; null is $MLFLOW_TRACKING_URI, else SQLite in storage_path."
    )
    experiment: str = "vdm"
    log_every: int = Field(20, gt=0, description="Steps per metrics record.")
    picture_every: int = Field(1000, gt=0, description="Steps per schedule figure and grid.")
    picture_images: int = Field(40, gt=0)
    picture_steps: int = Field(64, gt=0, description="T of the sampler for the grid.")
    log_model: bool = Field(
        True, description="Hand MLflow the trained model at the end: safetensors and JSON."
    )
    registered_model: str | None = Field(
        None, description="Name in MLflow's registry of which the model becomes a new version."
    )
    system_metrics: bool = Field(
        True, description="Track CPU, memory, disk, network and GPUs of every node, each 10 s."
    )
    peak_tflops: float | None = Field(
        None,
        gt=0,
        description="Peak of a worker's device in TFLOP/s at the precision used, for train/mfu; "
        "null is the data sheet's for well-known GPUs in bfloat16, and no MFU for others.",
    )


class TrainConfig(JobConfig):
    """One training run: `name` under `storage_path` is its identity."""

    name: RunName = Field(description="Of the run and of its folder.")
    storage_path: str = Field("runs", description="Folder or URL for checkpoints and records.")
    resume: Literal["auto", "never"] = Field(
        "auto", description="auto continues the run of this name; never refuses if there is one."
    )
    seed: int = Field(0, ge=0, lt=2**63)
    steps: int = Field(gt=0, description="Optimizer steps in the whole run.")
    data: DataConfig = Field(description="The images, and how they are read.")
    model: AnyModelConfig = Field(description="What is trained: `kind` and what belongs to it.")
    optimizer: OptimizerConfig = OptimizerConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()

    @property
    def train_paths(self) -> tuple[str, ...]:
        """The training sets as URLs or absolute paths."""
        return tuple(self.path(component.path) for component in self.data.train)

    def on_workers(self, count: int) -> "TrainConfig":
        """This configuration on so many workers."""
        cluster = self.cluster.model_copy(update={"workers": count})
        return self.model_copy(update={"cluster": cluster})

    @property
    def micro_batch(self) -> int:
        """Images per forward pass and worker; of a range of workers, on the fewest."""
        return self.data.micro_batch or self.data.batch_size // self.cluster.worker_counts[0]

    @property
    def accumulation(self) -> int:
        """Forward passes per step and worker; of a range of workers, on the fewest."""
        return self.data.batch_size // (self.cluster.worker_counts[0] * self.micro_batch)

    @model_validator(mode="after")
    def _compiles_a_vdm(self) -> "TrainConfig":
        if self.deepspeed.compile and self.model.kind != "vdm":
            raise ValueError(
                f"deepspeed.compile is for model.kind=vdm, and this is {self.model.kind}: leave it "
                "out"
            )
        return self

    @model_validator(mode="after")
    def _snapshots_of_something(self) -> "TrainConfig":
        widths = [average for average in self.optimizer.ema if average.width is not None]
        if self.checkpoint.ema_every is not None and not widths:
            raise ValueError(
                "checkpoint.ema_every keeps averages that have a width, and optimizer.ema has "
                "none: add {width: 0.05}, {width: 0.1} there"
            )
        return self

    @model_validator(mode="after")
    def _batch_divides(self) -> "TrainConfig":
        batch = self.data.batch_size
        for workers in self.cluster.worker_counts:
            if batch % workers:
                raise ValueError(
                    f"data.batch_size ({batch}) must be a multiple of cluster.workers ({workers})"
                )
            if (batch // workers) % (self.data.micro_batch or 1):
                raise ValueError(
                    f"data.batch_size / cluster.workers ({batch // workers}) must be a multiple of "
                    f"data.micro_batch ({self.data.micro_batch})"
                )
        return self
