"""What the finished rungs came to: their bounds term by term, their cost and their samples."""

from dataclasses import dataclass

from pipeline.config.base import ConfigModel
from pipeline.evaluation.likelihood_report import LikelihoodReport
from pipeline.ladder.plan import Rung
from pipeline.sampling.sample_set import open_sample_set
from pipeline.sampling.shard_rows import FinishedShard
from pipeline.tracking import read_records


@dataclass(frozen=True)
class RungResult:
    """A row of the table; `terms` and `bits_per_dim` are of the test split, in bits/dim.

    `worker_seconds`: of training steps, all workers together. `samples_per_second`: of one actor.
    """

    name: str
    title: str
    bits_per_dim: float
    standard_error: float
    terms: dict[str, float]
    parameters: int
    steps: int
    teraflops: float
    worker_seconds: float
    evaluations: int
    samples_per_second: float
    images: int
    data_digest: str
    samples: str


class LadderResult(ConfigModel):
    """Contents of `ladder.json`."""

    rungs: tuple[RungResult, ...]


def rung_result(
    rung: Rung, report: LikelihoodReport, samples: str, journal: str, shards: list[FinishedShard]
) -> RungResult:
    """Put together what the jobs left: report, sample set, the training run's journal."""
    drawn = open_sample_set(samples)
    evaluations = drawn.info.provenance["nfe"]
    assert isinstance(evaluations, int)
    return RungResult(
        name=rung.name,
        title=rung.title,
        bits_per_dim=report.bound.bits_per_dim,
        standard_error=report.bound.standard_error,
        terms=dict(report.bound.terms),
        parameters=rung.parameters,
        steps=rung.training.steps,
        teraflops=rung.teraflops,
        worker_seconds=training_seconds(journal) * rung.training.cluster.worker_counts[-1],
        evaluations=evaluations,
        samples_per_second=len(drawn) / sum(shard.seconds for shard in shards),
        images=report.bound.images,
        data_digest=report.data_digest,
        samples=samples,
    )


def training_seconds(journal: str) -> float:
    """Of all steps that a run's journal tells of; those computed again after a restart once."""
    found: dict[int, float] = {}
    for record in read_records(journal):
        if "train/step_seconds" in record.get("values", {}):
            found[record["step"]] = record["values"]["train/step_seconds"]
    steps = sorted(found)
    return sum((b - a) * found[b] for a, b in zip([0, *steps], steps, strict=False))


def as_json(rows: list[RungResult]) -> bytes:
    """`ladder.json`."""
    return LadderResult(rungs=tuple(rows)).model_dump_json(indent=2).encode()
