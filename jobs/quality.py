"""How like the data samples are: Fréchet and kernel distances of features, precision and recall.

    python -m jobs.quality --config jobs/presets/fashion_mnist_quality.yaml

With Inception's features these are FID and KID; with those of a classifier trained on the data
(`jobs.features`) they have other names, and other values. Features of finished ranges are kept, so
a killed job goes on and the next set is compared with data that are known already.
"""

import io
import logging
import sys

from jobs.cli import run
from pipeline.cluster.connect import connected
from pipeline.config.quality import QualityConfig
from pipeline.quality.measure import make_plan, measure
from pipeline.quality.report import quality_figure, quality_table

REPORT, TABLE, PICTURE = "quality.json", "quality.md", "quality.png"
log = logging.getLogger(__name__)


def main(config: QualityConfig) -> None:
    """Compute what is missing, then write and print the table."""
    plan = make_plan(config)
    with connected():
        report = measure(plan)
    picture, table = io.BytesIO(), quality_table(report)
    quality_figure(report).savefig(picture, format="png", dpi=120)
    (plan.output / TABLE).write_bytes(table.encode())
    (plan.output / PICTURE).write_bytes(picture.getvalue())
    (plan.output / REPORT).write_bytes(report.model_dump_json(indent=2).encode())
    log.info("table and picture in %s", plan.output)
    print(table)


if __name__ == "__main__":
    sys.exit(run(QualityConfig, main, plan=lambda c: make_plan(c).text(), description=__doc__))
