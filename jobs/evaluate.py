"""Bits/dim of trained models over a whole split: each image once, with the terms of its bound.

    python -m jobs.evaluate --config jobs/presets/fashion_mnist_evaluate.yaml
    python -m jobs.evaluate --config … 'model=[runs/a, runs/b]' output=runs/compared

The result does not depend on the number of actors. Killed and run again, it keeps the images that
are done; asked for again, it is shown, not recomputed. Several models are compared image by image.
"""

import logging
import sys

from jobs.cli import run
from pipeline.cluster.connect import connected
from pipeline.config.evaluate import EvaluateConfig
from pipeline.evaluation.comparison import (
    compare,
    comparison_figure,
    read_evaluated,
    table_csv,
    table_markdown,
)
from pipeline.evaluation.likelihood_report import LikelihoodReport, report_text
from pipeline.evaluation.plan import Plan, make_plans
from pipeline.evaluation.run import IMAGES, evaluate, read_report
from pipeline.report_files import ReportFiles
from pipeline.storage import Location, open_storage
from pipeline.tracking.nested_run import nested_run
from pipeline.tracking.waiting import send_waiting

COMPARISON = ReportFiles("comparison.md", "comparison.png", "comparison.csv")
log = logging.getLogger(__name__)


def main(config: EvaluateConfig) -> None:
    """Evaluate every image, unless that is done; write the images' terms, report and picture."""
    plans = make_plans(config)
    reports = [finished(plan) for plan in plans]
    if None in reports:
        with connected():
            reports = [report or new(plan) for report, plan in zip(reports, plans, strict=True)]
    done = [report for report in reports if report is not None]
    for report in done:
        print(report_text(report))
    if config.output and len(plans) > 1:
        print(write_comparison(open_storage(config.path(config.output)), plans, done))


def finished(plan: Plan) -> LikelihoodReport | None:
    """The report that is there already; None where there is none of this request."""
    report = read_report(plan.output)
    if report is None or report.request != plan.request:
        return None
    log.info("%s holds this evaluation already", plan.output)
    send_waiting(plan.output)
    return report


def new(plan: Plan) -> LikelihoodReport:
    """Compute the report, as an MLflow run below the model's."""
    with nested_run(
        plan.model, plan.card, "evaluate", plan.params, plan.output, plan.data_use
    ) as tracker:
        report = evaluate(plan, tracker)
    log.info("per-image terms, summary and picture in %s", plan.output)
    return report


def write_comparison(output: Location, plans: list[Plan], reports: list[LikelihoodReport]) -> str:
    """The tables and the picture of all models together; returns the Markdown table."""
    rows = compare(
        [
            read_evaluated(plan.output.url.rpartition("/")[2], report, plan.output / IMAGES)
            for plan, report in zip(plans, reports, strict=True)
        ]
    )
    table = table_markdown(rows)
    COMPARISON.write(output, table, comparison_figure(rows), table_csv(rows))
    log.info("comparison in %s", output)
    return table


def plan_text(config: EvaluateConfig) -> str:
    """The plans in words."""
    return "\n".join(plan.text() for plan in make_plans(config))


if __name__ == "__main__":
    sys.exit(run(EvaluateConfig, main, plan=plan_text, description=__doc__))
