"""Train several families for the same compute and compare them: one table, one picture.

    python -m jobs.ladder --config jobs/presets/ladder.yaml
    python -m jobs.ladder --config jobs/presets/ladder.yaml teraflops=40

Each family is a run of `jobs.train`, evaluated by `jobs.evaluate` and sampled by `jobs.sample`; run
again, what is finished is kept and the rest goes on. More `teraflops` continue the same runs.
"""

import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from jobs import evaluate, sample, train
from jobs.cli import run
from pipeline.cluster.connect import connected
from pipeline.config.rungs import LadderConfig
from pipeline.evaluation.likelihood_report import LikelihoodReport
from pipeline.evaluation.plan import make_plans
from pipeline.evaluation.run import read_report
from pipeline.ladder.plan import Rung, plan_ladder
from pipeline.ladder.report import FILES, ladder_figure, markdown
from pipeline.ladder.result import RungResult, as_json, rung_result
from pipeline.sampling.draw import claim_all
from pipeline.storage import Location, open_storage
from pipeline.training.preflight import plan_training

log = logging.getLogger(__name__)


def main(config: LadderConfig) -> None:
    """Train, evaluate and draw from every rung; write table and picture."""
    ladder = plan_ladder(config)
    log.info("%s", ladder.text())
    with connected():  # once for all jobs
        for rung in ladder.rungs:
            with own_signals():
                train.main(rung.training)
        evaluate.main(config.evaluation)
        for rung in ladder.rungs:
            sample.main(config.samples(rung.name))
    rows = []
    for rung, plan in zip(ladder.rungs, make_plans(config.evaluation), strict=True):
        report = read_report(plan.output)
        assert report is not None  # the job that wrote it has succeeded
        rows.append(result(rung, config, report))
    print(write_result(open_storage(config.path(config.output)), rows))


@contextmanager
def own_signals() -> Iterator[None]:
    """Give SIGTERM and Ctrl-C back their meaning after a training, which takes them over."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def result(rung: Rung, config: LadderConfig, report: LikelihoodReport) -> RungResult:
    """What the finished jobs of a rung left."""
    journal = train.journal_path(plan_training(rung.training))
    (samples,) = claim_all(sample.make_plan(config.samples(rung.name)).sets)
    return rung_result(rung, report, samples.plan.output.url, journal, [*samples.done.values()])


def write_result(output: Location, rows: list[RungResult]) -> str:
    """Write table, picture and numbers; return the table."""
    table = markdown(rows)
    FILES.write(output, table, ladder_figure(rows), as_json(rows))
    return f"{table}\npicture: {output / FILES.picture}"


if __name__ == "__main__":
    sys.exit(run(LadderConfig, main, plan=lambda c: plan_ladder(c).text(), description=__doc__))
