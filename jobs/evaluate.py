"""Bits/dim of a trained model over a whole split: each image once, with the terms of its bound.

    python -m jobs.evaluate --config jobs/presets/fashion_mnist_evaluate.yaml

The result does not depend on the number of actors. Asked for again, it is shown, not recomputed.
"""

import io
import logging
import sys
from dataclasses import asdict, dataclass

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from jobs.cli import run
from pipeline.cluster.connect import connected
from pipeline.cluster.pool import run_tasks
from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.sample import EvaluateConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.select import selected
from pipeline.data.transform import seen_shape
from pipeline.errors import InputError
from pipeline.evaluation.baseline import iid_pixel_bits
from pipeline.evaluation.bounds import bound_steps, check_figures, meaning, profile_gammas
from pipeline.evaluation.evaluate import (
    ImageRange,
    ImageTerms,
    LikelihoodEvaluator,
    image_columns,
    summarise,
    summarise_profile,
    time_steps,
)
from pipeline.evaluation.likelihood_report import (
    LikelihoodReport,
    further_figures,
    likelihood_figure,
    report_text,
    time_text,
    tracked_figures,
)
from pipeline.evaluation.profile_report import profile_figure, profile_table
from pipeline.metrics import Scalar, flatten
from pipeline.model.export import ModelCard, load_card, load_model
from pipeline.progress import Progress
from pipeline.storage import Location, open_storage
from pipeline.tracking import Tracker
from pipeline.tracking.nested_run import nested_run
from pipeline.training.checkpoint_record import newest_model

IMAGES, REPORT, PICTURE = "images.parquet", "likelihood.json", "likelihood.png"
PROFILE, PROFILE_PICTURE = "profile.parquet", "profile.png"
MARKER = "being-evaluated"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """An evaluation that has passed its checks."""

    config: EvaluateConfig
    model: Location
    card: ModelCard
    dataset: ShardedDataset
    baseline: ShardedDataset | None
    output: Location

    @property
    def request(self) -> dict[str, Scalar]:
        """What the figures depend on."""
        baseline = self.baseline.info.manifest_sha256 if self.baseline else None
        return (
            self.card.identity
            | self._further_request
            | {
                "data_manifest_sha256": self.dataset.info.manifest_sha256,
                "baseline_manifest_sha256": baseline,
                "select": self.config.select.model_dump_json(exclude_defaults=True),
                "transform": self.config.transform.model_dump_json(exclude_defaults=True),
                "steps": time_steps(self.config, self.card),
                "draws": self.config.draws,
                "seed": self.config.seed,
            }
        )

    @property
    def _further_request(self) -> dict[str, Scalar]:
        bounds = self.config.bounds
        if not bounds.compute:
            return {}
        asked = bounds.model_dump(mode="json") | {
            "compute": sorted(set(bounds.compute)),
            "steps": bound_steps(self.config, self.card),
        }
        return flatten(asked, "bounds.")

    @property
    def params(self) -> dict[str, Scalar]:
        """What MLflow shows beside the figures."""
        steps = time_steps(self.config, self.card)
        place = {"data": self.config.path(self.config.data), "split": self.dataset.info.split}
        return self.request | place | {"T": "continuous" if steps is None else steps}

    def text(self) -> str:
        """The plan in words."""
        info, steps = self.dataset.info, time_steps(self.config, self.card)
        further = "".join(
            f"\n  {name}: {meaning(name, self.config, bound_steps(self.config, self.card))}"
            for name in self.config.bounds.compute
        )
        return (
            f"plan: the bound of {info.samples:,} {info.split} images {info.shape}, "
            f"draws per image: {self.config.draws}, "
            f"{time_text(steps)}, to {self.output}\n"
            f"  model {self.model}: {self.card.run} after step {self.card.step}"
            f"{further}"
        )


def make_plan(config: EvaluateConfig) -> Plan:
    """Open model and data and see that they belong together; write nothing.

    Raises:
        InputError: no model, no data, images or classes other than the model's, a figure that
            the model cannot be asked for, an output that a submitted job would lose.
    """
    check_submitted_paths(config, "output" if config.output else "model")
    model = newest_model(open_storage(config.path(config.model)))
    card = load_card(model)
    check_figures(config, card)
    dataset = selected(_open_fitting(config, config.data, card), config.select)
    if card.model.conditional and dataset.info.classes != card.classes:
        raise InputError(
            f"{config.data} has {dataset.info.classes} classes, the model {card.classes}"
        )
    if dataset.info.samples < 2:
        raise InputError(f"{config.data} has one image; a standard error takes at least 2")
    baseline = _open_fitting(config, config.baseline_data, card) if config.baseline_data else None
    output = open_storage(config.path(config.output)) if config.output else model / "evaluation"
    return Plan(config, model, card, dataset, baseline, output)


def _open_fitting(config: EvaluateConfig, path: str, card: ModelCard) -> ShardedDataset:
    dataset = open_dataset(config.path(path))
    shape = seen_shape(config.transform, dataset.info.shape)
    if shape != card.shape or dataset.info.levels != card.levels:
        raise InputError(
            f"{path} has images {shape} of {dataset.info.levels} levels but the "
            f"model was trained on {card.shape} of {card.levels}"
        )
    return dataset


def main(config: EvaluateConfig) -> None:
    """Evaluate every image, unless that is done; write the images' terms, report and picture."""
    plan = make_plan(config)
    report = read_report(plan.output)
    if report is not None and report.request == plan.request:
        log.info("%s holds this evaluation already", plan.output)
    else:
        with connected(), nested_run(plan.model, plan.card, "evaluate", plan.params) as tracker:
            report = evaluate(plan, tracker)
        log.info("per-image terms, summary and picture in %s", plan.output)
    print(report_text(report))


def read_report(output: Location) -> LikelihoodReport | None:
    """The report in `output`; None if there is none that this version can read."""
    if (output / REPORT).size() is None:
        return None
    try:
        return LikelihoodReport.model_validate_json((output / REPORT).read_bytes())
    except ValidationError:
        log.info("%s is not a report of this version and is replaced", output / REPORT)
        return None


def evaluate(plan: Plan, tracker: Tracker | None) -> LikelihoodReport:
    """Run the pool and keep what it finds; the report is written last."""
    marker = plan.output / MARKER
    marker.write_bytes(b"")  # shows before the work that results can be written here
    results = collect(plan)
    report = make_report(plan, results)
    figure = likelihood_figure(
        results, plan.card.dims, plan.dataset.info.class_names, report.iid_pixel_bits_per_dim
    )
    table, picture = io.BytesIO(), io.BytesIO()
    pq.write_table(pa.table(image_columns(results)), table)
    figure.savefig(picture, format="png", dpi=120)
    (plan.output / IMAGES).write_bytes(table.getvalue())
    (plan.output / PICTURE).write_bytes(picture.getvalue())
    if "profile" in plan.config.bounds.compute:
        write_profile(plan, results, tracker)
    (plan.output / REPORT).write_bytes(report.model_dump_json(indent=2).encode())
    marker.delete()
    if tracker is not None:
        tracker.metrics(plan.card.step, tracked_figures(report))
        tracker.figure(plan.card.step, "likelihood", figure)
        tracker.json("likelihood.json", report.model_dump(mode="json"))
    return report


def write_profile(plan: Plan, results: list[ImageTerms], tracker: Tracker | None) -> None:
    """The diffusion term over γ, as a table and as a picture."""
    vdm, card = load_model(plan.model)
    gammas = profile_gammas(vdm, plan.config.bounds.profile_points)
    profile = summarise_profile(results, gammas, card.dims)
    figure, table, picture = profile_figure(profile), io.BytesIO(), io.BytesIO()
    pq.write_table(profile_table(profile), table)
    figure.savefig(picture, format="png", dpi=120)
    (plan.output / PROFILE).write_bytes(table.getvalue())
    (plan.output / PROFILE_PICTURE).write_bytes(picture.getvalue())
    if tracker is not None:
        tracker.figure(card.step, "profile", figure)


def collect(plan: Plan) -> list[ImageTerms]:
    """The terms of every image, in the order of the split.

    Raises:
        RuntimeError: an image is missing or there twice.
    """
    total, size = plan.dataset.info.samples, plan.config.batch_size
    ranges = [ImageRange(start, min(start + size, total)) for start in range(0, total, size)]
    tasks, arguments = [asdict(r) for r in ranges], (plan.config, plan.model.url)
    results, progress = [], Progress("evaluated", total)
    for rows in run_tasks(tasks, LikelihoodEvaluator, arguments, plan.config.pool):
        results += [ImageTerms(**row) for row in rows]
        progress.add(len(rows))
    results.sort(key=lambda result: result.index)
    if [result.index for result in results] != list(range(total)):
        raise RuntimeError(f"{len(results)} results for {total} images, or not each once")
    return results


def make_report(plan: Plan, results: list[ImageTerms]) -> LikelihoodReport:
    """The means over `results`, and the baseline."""
    baseline = (
        iid_pixel_bits(plan.baseline, plan.dataset, plan.config.transform)
        if plan.baseline
        else None
    )
    return LikelihoodReport(
        bound=summarise(results, plan.card.dims),
        further=further_figures(results, plan.config, plan.card),
        iid_pixel_bits_per_dim=baseline,
        steps=time_steps(plan.config, plan.card),
        conditional=plan.card.model.conditional,
        draws=plan.config.draws,
        split=plan.dataset.info.split,
        model=plan.model.url,
        data=plan.config.path(plan.config.data),
        request=plan.request,
    )


if __name__ == "__main__":
    sys.exit(run(EvaluateConfig, main, plan=lambda c: make_plan(c).text(), description=__doc__))
