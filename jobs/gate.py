"""Check a finished sample set before it is published, and mark it as passed or failed.

    python -m jobs.gate --config jobs/presets/fashion_mnist_gate.yaml

Classes, copies, training images that were learned by heart, value ranges and, if asked for, a
Fréchet distance. A failed gate says why, ends with exit code 1 and leaves its mark on the set.
"""

import io
import logging
import sys

from jobs.cli import run
from pipeline.cluster.connect import connected
from pipeline.config.quality import GateJobConfig
from pipeline.quality.gate import GateReport, Plan, make_plan, mark, run_gate
from pipeline.quality.gate_report import gate_figure, gate_text

REPORT, PICTURE = "gate.json", "gate.png"
log = logging.getLogger(__name__)


def main(config: GateJobConfig) -> None:
    """Run the gate. Ends the process with exit code 1 where it fails."""
    plan = make_plan(config)
    with connected():
        report = pass_gate(plan)
    print(gate_text(report))
    if not report.passed:
        sys.exit(1)


def pass_gate(plan: Plan) -> GateReport:
    """Measure, judge and mark the set; a Ray cluster must be connected."""
    report, evidence = run_gate(plan)
    folder = plan.samples.folder
    if evidence is not None:
        picture = io.BytesIO()
        gate_figure(plan, evidence).savefig(picture, format="png", dpi=120)
        (folder / PICTURE).write_bytes(picture.getvalue())
    (folder / REPORT).write_bytes(report.model_dump_json(indent=2).encode())
    mark(plan.samples, passed=report.passed)
    log.info("%s in %s", " and ".join((REPORT, PICTURE) if evidence else (REPORT,)), folder)
    return report


if __name__ == "__main__":
    sys.exit(run(GateJobConfig, main, plan=lambda c: make_plan(c).text(), description=__doc__))
