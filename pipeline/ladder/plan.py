"""How long each rung is trained, so that all take the same compute."""

from dataclasses import dataclass

from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.rungs import LadderConfig
from pipeline.config.train import TrainConfig
from pipeline.data.mixture import open_mixture
from pipeline.errors import InputError
from pipeline.training.compute_cost import training_flops
from pipeline.training.preflight import plan_training
from pipeline.training.trained import Trained


@dataclass(frozen=True)
class Rung:
    """A family with what it costs: FLOPs of one training image, forward and backward."""

    name: str
    title: str
    training: TrainConfig
    parameters: int
    image_flops: int

    @property
    def teraflops(self) -> float:
        """What all its steps cost."""
        return self.image_flops * self.training.data.batch_size * self.training.steps / 1e12


@dataclass(frozen=True)
class Ladder:
    """All rungs, checked."""

    config: LadderConfig
    rungs: tuple[Rung, ...]

    def text(self) -> str:
        """The plan in words."""
        lines = [
            f"  {rung.name:<12} {rung.training.steps:>7,} steps of {rung.image_flops / 1e6:,.0f} "
            f"MFLOP an image, {rung.parameters:,} parameters"
            for rung in self.rungs
        ]
        total = f"{self.config.teraflops:g} TFLOP each"
        return "\n".join([f"plan: {len(lines)} families, {total}, to {self.config.output}", *lines])


def plan_ladder(config: LadderConfig) -> Ladder:
    """Check every rung as its own run would be, and count its steps; write nothing.

    Raises:
        InputError: what a rung's training would be refused for; names the rung.
    """
    check_submitted_paths(config, "storage_path")
    return Ladder(config, tuple(_rung(config, name) for name in config.rungs))


def _rung(config: LadderConfig, name: str) -> Rung:
    try:
        training = config.training(name, steps=1)
        trained = Trained.by(training, open_mixture(training.train_paths, training.data).info)
        parameters = trained.check()
        flops = training_flops(trained.outline(), trained.shape)
        steps = max(1, round(config.teraflops * 1e12 / (flops * config.data.batch_size)))
        training = config.training(name, steps)
        plan_training(training)
    except InputError as error:
        raise InputError(f"rungs.{name}: {error}") from None
    return Rung(name, config.rungs[name].title, training, parameters, flops)
