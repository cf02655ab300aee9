"""Draw data sets of images from a trained model, as shards that our own stream reads.

    python -m jobs.sample --config jobs/presets/fashion_mnist_sample.yaml guidance_scale=3
    python -m jobs.sample --config jobs/presets/fashion_mnist_sweep.yaml

Killed and run again, it keeps the finished shards and makes the rest. With `sweep` it draws one set
for each combination of samplers, steps and guidance scales, and compares them. With `gate` each
finished set is checked, marked, and ends the job with exit code 1 if it is not fit to be published.
"""

import io
import logging
import sys
from dataclasses import dataclass

import numpy as np
from PIL import Image

from jobs.cli import run
from jobs.gate import finished, pass_gate
from pipeline.cluster.connect import connected
from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.quality import GateJobConfig
from pipeline.config.sample import SampleConfig
from pipeline.metrics import Scalar
from pipeline.quality.gate_plan import check_gate
from pipeline.quality.gate_plan import make_plan as make_gate_plan
from pipeline.quality.gate_report import gate_text
from pipeline.report_files import png_bytes
from pipeline.sampling.draw import Claimed, claim_all, draw
from pipeline.sampling.output_folder import check_output, claim
from pipeline.sampling.pictures import GRID, draw_class_grids, draw_grid
from pipeline.sampling.plan import LoadedModel, SetPlan, load_for, plan_set
from pipeline.sampling.sample_set import open_sample_set
from pipeline.sampling.sweep import cell_result, sweep_cells, sweep_identity
from pipeline.sampling.sweep_report import PICTURE, sweep_figure, write_table
from pipeline.storage import Location, open_storage
from pipeline.tracking import Tracker
from pipeline.tracking.nested_run import nested_run
from pipeline.tracking.waiting import send_waiting

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A request that has passed its checks: one set, or those of a sweep."""

    config: SampleConfig
    model: LoadedModel
    sets: list[SetPlan]

    @property
    def output(self) -> Location:
        """The set's folder, or the one that holds those of a sweep."""
        return open_storage(self.config.path(self.config.output))

    @property
    def params(self) -> dict[str, Scalar]:
        """What MLflow shows."""
        size: dict[str, Scalar] = {
            "samples": sum(s.rows.total for s in self.sets),
            "output": str(self.output),
        }
        if self.config.sweep is None:
            return dict(self.sets[0].identity) | size
        return self.model.card.identity | size | {"sweep": self.config.sweep.model_dump_json()}

    def text(self) -> str:
        """The plan in words."""
        card = self.model.card
        lines = [
            f"plan: {one.rows.total:,} samples in {len(one.tasks())} shards to {one.output}, "
            f"NFE {one.nfe}"
            for one in self.sets
        ]
        return "\n".join(
            [*lines, f"  model {self.model.place}: {card.run} after step {card.step}, "
             f"{card.average.text}, images {card.shape}"]
        )  # fmt: skip


def make_plan(config: SampleConfig) -> Plan:
    """Load the model and see that it can do what is asked; write nothing.

    Raises:
        InputError: no model or a damaged one, classes, guidance or requests that mean nothing to
            it, an output that a submitted job would lose or that holds something else.
    """
    check_submitted_paths(config, "output")
    model = load_for(config)
    if config.gate is not None:
        check_gate(config.gate, config, config.model, model.card.shape, model.card.levels)
    plan = Plan(config, model, [plan_set(cell, model) for cell in sweep_cells(config)])
    if config.sweep is not None:
        identity = sweep_identity(config, model)
        check_output(plan.output, identity, overwrite=config.overwrite)
    for one in plan.sets:
        check_output(one.output, one.identity, overwrite=config.overwrite)
    return plan


def main(config: SampleConfig) -> None:
    """Make the shards that are missing, and of full sets the manifests and pictures."""
    plan = make_plan(config)
    if config.sweep is not None:
        identity = sweep_identity(config, plan.model)
        claim(plan.output, identity, overwrite=config.overwrite)
    sets = claim_all(plan.sets)
    if all(one.complete for one in sets) and _pictured(plan):
        log.info("%s is complete already", plan.output)
        send_waiting(plan.output)
        pass_gates(plan)
        return
    with nested_run(
        plan.model.place, plan.model.card, "sample", plan.params, plan.output
    ) as tracker:
        if not all(one.complete for one in sets):
            with connected():
                draw(sets, finished=show)
        for one in sets:
            if one.complete and (one.plan.output / GRID).size() is None:
                show(one)
        track(plan, tracker)
        if config.sweep is not None:
            compare(plan, sets, tracker)
    pass_gates(plan)


def pass_gates(plan: Plan) -> None:
    """Put every set through the gate, if there is one; exit code 1 where a set fails."""
    config = plan.config
    if config.gate is None:
        return
    gates = [
        make_gate_plan(
            GateJobConfig(
                root=config.root, samples=one.output.url, gate=config.gate, pool=config.pool
            )
        )
        for one in plan.sets
    ]
    reports = [finished(gate) for gate in gates]
    if None in reports:
        with connected():
            reports = [r or pass_gate(gate) for r, gate in zip(reports, gates, strict=True)]
    done = [report for report in reports if report is not None]
    print("\n".join(gate_text(report) for report in done))
    if not all(report.passed for report in done):
        sys.exit(1)


def _pictured(plan: Plan) -> bool:
    pictures = [one.output / GRID for one in plan.sets]
    if plan.config.sweep is not None:
        pictures.append(plan.output / PICTURE)
    return all(picture.size() is not None for picture in pictures)


def show(one: Claimed) -> None:
    """Draw the grids of a finished set and say where it is."""
    samples, config = open_sample_set(one.plan.output.url), one.plan.config
    draw_class_grids(samples, config.class_grid_images)
    draw_grid(samples, min(config.grid_columns, len(samples)))
    log.info("%d samples in %s, grid %s", len(samples), samples.folder, samples.folder / GRID)


def track(plan: Plan, tracker: Tracker | None) -> None:
    """Show the grid of a single set beside its parameters."""
    if tracker is None or plan.config.sweep is not None:
        return
    png = (plan.output / GRID).read_bytes()
    tracker.image(plan.model.card.step, "samples", np.asarray(Image.open(io.BytesIO(png))))


def compare(plan: Plan, sets: list[Claimed], tracker: Tracker | None) -> None:
    """Write the sweep's table and picture."""
    results = [cell_result(one) for one in sets]
    text, figure = write_table(plan.output, results), sweep_figure(results)
    (plan.output / PICTURE).write_bytes(png_bytes(figure, dpi=150))
    if tracker is not None:
        tracker.figure(plan.model.card.step, "sweep", figure)
    print(text + f"picture: {plan.output / PICTURE}")


if __name__ == "__main__":
    sys.exit(run(SampleConfig, main, plan=lambda c: make_plan(c).text(), description=__doc__))
