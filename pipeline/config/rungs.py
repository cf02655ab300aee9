"""Configuration of `jobs.ladder`: families that are trained alike, for the same compute."""

from pydantic import Field, model_validator

from pipeline.config.base import ConfigModel, JobConfig
from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.family import GenerativeConfig
from pipeline.config.sample import PoolConfig, SampleConfig
from pipeline.config.train import (
    CheckpointConfig,
    ClusterConfig,
    DataConfig,
    DeepSpeedConfig,
    OptimizerConfig,
    TrackingConfig,
    TrainConfig,
)
from vdm_core.samplers import SamplerName


class RungConfig(ConfigModel):
    """One family."""

    title: str = Field(description="Its name in the table and the picture.")
    model: GenerativeConfig
    optimizer: OptimizerConfig | None = Field(None, description="Its own; null is that of all.")


class LadderConfig(JobConfig):
    """Everything that the rungs share, and the rungs."""

    name: str = Field("ladder", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    storage_path: str = Field("runs", description="Folder or URL for the runs and the result.")
    seed: int = Field(0, ge=0, lt=2**63)
    teraflops: float = Field(
        gt=0,
        description="What each is trained for: 10^12 operations of its networks, forward and "
        "backward, over all images and steps.",
    )
    rungs: dict[str, RungConfig] = Field(min_length=1)
    data: DataConfig
    test: str = Field(description="Folder or URL of the split that bits/dim are of.")
    draws: int = Field(4, gt=0, description="Times and noises per image in the evaluation.")
    per_class: int = Field(10, gt=0, description="Samples of each class.")
    sampler: SamplerName = "ancestral"
    sample_steps: int = Field(64, gt=0, description="Steps of those that walk to their samples.")
    optimizer: OptimizerConfig = OptimizerConfig()
    deepspeed: DeepSpeedConfig = DeepSpeedConfig()
    cluster: ClusterConfig = ClusterConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    tracking: TrackingConfig = TrackingConfig()
    pool: PoolConfig = PoolConfig()

    @property
    def output(self) -> str:
        """Where table and picture go, and the evaluation and the samples below."""
        return f"{self.storage_path.rstrip('/')}/{self.name}"

    def training(self, rung: str, steps: int) -> TrainConfig:
        """What `jobs.train` is asked for."""
        own = self.rungs[rung]
        return TrainConfig(
            root=self.root,
            name=f"{self.name}_{rung}",
            storage_path=self.storage_path,
            seed=self.seed,
            steps=steps,
            data=self.data,
            model=own.model,
            optimizer=own.optimizer or self.optimizer,
            deepspeed=self.deepspeed,
            cluster=self.cluster,
            checkpoint=self.checkpoint,
            tracking=self.tracking,
        )

    @property
    def evaluation(self) -> EvaluateConfig:
        """What `jobs.evaluate` is asked for, of all rungs at once."""
        return EvaluateConfig(
            root=self.root,
            model=tuple(f"{self.storage_path.rstrip('/')}/{self.name}_{r}" for r in self.rungs),
            data=self.test,
            output=f"{self.output}/evaluation",
            draws=self.draws,
            seed=self.seed,
            batch_size=50,
            pool=self.pool,
        )

    def samples(self, rung: str) -> SampleConfig:
        """What `jobs.sample` is asked for; only a model with noise levels is told how to walk."""
        asked = {
            "root": self.root,
            "model": f"{self.storage_path.rstrip('/')}/{self.name}_{rung}",
            "output": f"{self.output}/samples/{rung}",
            "per_class": self.per_class,
            "seed": self.seed,
            "pool": self.pool,
            "overwrite": True,  # those of an earlier step are replaced
        }
        if self.rungs[rung].model.schedule is not None:
            asked |= {"sampler": self.sampler, "steps": self.sample_steps}
        return SampleConfig(**asked)

    @model_validator(mode="after")
    def _one_kind_of_bound(self) -> "LadderConfig":
        told = {rung.model.conditional for rung in self.rungs.values()}
        if len(told) > 1:
            raise ValueError(
                "some of the rungs are told the class of an image and some are not, and their "
                "bounds are of different things: set model.conditional alike"
            )
        return self
