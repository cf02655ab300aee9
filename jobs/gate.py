"""Check a finished sample set before it is published, and mark it as passed or failed.

    python -m jobs.gate --config jobs/presets/fashion_mnist_gate.yaml

Classes, copies, training images that were learned by heart, value ranges and, if asked for, a
Fréchet distance. A failed gate says why, ends with exit code 1 and leaves its mark on the set.
"""

import logging
import sys

from pydantic import ValidationError

from jobs.cli import run
from pipeline.cluster.connect import connected
from pipeline.config.quality import GateJobConfig
from pipeline.quality.gate import GateReport, mark, run_gate
from pipeline.quality.gate_plan import Plan, make_plan
from pipeline.quality.gate_report import gate_figure, gate_text
from pipeline.report_files import png_bytes

REPORT, PICTURE = "gate.json", "gate.png"
log = logging.getLogger(__name__)


def main(config: GateJobConfig) -> None:
    """Run the gate. Ends the process with exit code 1 where it fails."""
    plan = make_plan(config)
    report = finished(plan)
    if report is None:
        with connected():
            report = pass_gate(plan)
    print(gate_text(report))
    if not report.passed:
        sys.exit(1)


def finished(plan: Plan) -> GateReport | None:
    """The report that is beside the set already; None where there is none of this request."""
    file = plan.samples.folder / REPORT
    if file.size() is None:
        return None
    try:
        report = GateReport.model_validate_json(file.read_bytes())
    except ValidationError:
        log.info("%s is not a report of this version and is replaced", file)
        return None
    asked = (plan.config.gate.model_dump_json(), plan.against.info.manifest_sha256)
    if (report.request, report.against_manifest_sha256) != asked:
        return None
    return report if report.samples_manifest_sha256 == plan.samples.info.manifest_sha256 else None


def pass_gate(plan: Plan) -> GateReport:
    """Measure, judge and mark the set; a Ray cluster must be connected."""
    report, evidence = run_gate(plan)
    folder = plan.samples.folder
    if evidence is not None:
        (folder / PICTURE).write_bytes(png_bytes(gate_figure(plan, evidence)))
    mark(plan.samples, passed=report.passed)
    (folder / REPORT).write_bytes(report.model_dump_json(indent=2).encode())
    log.info("%s in %s", " and ".join((REPORT, PICTURE) if evidence else (REPORT,)), folder)
    return report


if __name__ == "__main__":
    sys.exit(run(GateJobConfig, main, plan=lambda c: make_plan(c).text(), description=__doc__))
