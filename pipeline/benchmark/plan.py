"""What a benchmark is to measure, checked before any worker starts."""

from dataclasses import dataclass

from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.benchmark import BenchmarkConfig
from pipeline.data.manifest import DatasetInfo
from pipeline.data.mixture import open_mixture
from pipeline.errors import InputError
from pipeline.model.family import Given
from pipeline.report_files import ReportFiles
from pipeline.storage import Location, open_storage
from pipeline.training.deepspeed_json import deepspeed_json
from pipeline.training.trained import Trained

REPORT = "benchmark.json"
FILES = ReportFiles("benchmark.md", "benchmark.png", REPORT)


@dataclass(frozen=True)
class Plan:
    """A benchmark that has passed its checks. `scratch` is for what is deleted afterwards."""

    config: BenchmarkConfig
    data: DatasetInfo
    parameters: int
    given: Given
    output: Location
    scratch: Location

    def text(self) -> str:
        """The plan in words."""
        config, measure = self.config, self.config.measure
        counts = ", ".join(map(str, config.worker_counts))
        images = config.trial(1).data.batch_size
        return (
            f"plan: measure {config.name} on {counts} workers of {images} images each\n"
            f"  data      {self.data.samples:,} images {self.data.shape}\n"
            f"  model     {self.parameters:,} parameters, ZeRO stage "
            f"{config.deepspeed.zero_stage}, {config.deepspeed.precision}\n"
            f"  each      {measure.repeats} repetitions of {measure.steps} steps\n"
            f"  output    {self.output}"
        )


def make_plan(config: BenchmarkConfig) -> Plan:
    """Check data, model, DeepSpeed JSON and the output's folder; write nothing.

    Raises:
        InputError: names the first thing that is wrong and its remedy.
    """
    check_submitted_paths(config, "storage_path", "output")
    deepspeed_json(config)
    info = open_mixture(config.train_paths, config.data).info
    trained = Trained.by(config, info)
    place = config.output or f"{config.storage_path.rstrip('/')}/{config.name}.speed"
    output = open_storage(config.path(place))
    others = [name for name in output.files() if name not in FILES]
    if others:
        raise InputError(
            f"output={place} ({output}) holds other things, such as {others[0]}; give a folder "
            "of its own (an earlier benchmark there is replaced)"
        )
    return Plan(
        config=config,
        data=info,
        parameters=trained.check(),
        given=trained.given,
        output=output,
        scratch=output / "scratch",
    )
