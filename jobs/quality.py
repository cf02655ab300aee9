"""How like the data samples are: Fréchet and kernel distances of features, precision and recall.

    python -m jobs.quality --config jobs/presets/fashion_mnist_quality.yaml

With Inception's features these are FID and KID; with those of a classifier trained on the data
(`jobs.features`) they have other names, and other values. Features of finished ranges are kept, so
a killed job goes on and the next set is compared with data that are known already.
"""

import logging
import sys

from jobs.cli import run
from pipeline.cluster.connect import connected
from pipeline.config.quality import QualityConfig
from pipeline.quality.measure import make_plan, measure
from pipeline.quality.report import quality_figure, quality_table
from pipeline.report_files import ReportFiles

FILES = ReportFiles("quality.md", "quality.png", "quality.json")
log = logging.getLogger(__name__)


def main(config: QualityConfig) -> None:
    """Compute what is missing, then write and print the table."""
    plan = make_plan(config)
    with connected():
        report = measure(plan)
    table, numbers = quality_table(report), report.model_dump_json(indent=2).encode()
    FILES.write(plan.output, table, quality_figure(report), numbers)
    log.info("table and picture in %s", plan.output)
    print(table)


if __name__ == "__main__":
    sys.exit(run(QualityConfig, main, plan=lambda c: make_plan(c).text(), description=__doc__))
