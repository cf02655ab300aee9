"""One model's evaluation from plan to files: finished ranges are kept, the report comes last.

likelihood.json, likelihood.png   means with standard errors; the report makes it finished
images.parquet                    every image's figures in nats and bits/dim
profile.parquet, profile.png      the diffusion term over γ, if asked for
unfinished/<request>/             figures of the ranges that are done; deleted at the end
"""

import logging

from pydantic import ValidationError

from pipeline.cluster.kept_ranges import KeptRanges, finish_ranges
from pipeline.evaluation.baseline import iid_pixel_bits
from pipeline.evaluation.bounds import profile_gammas
from pipeline.evaluation.evaluate import ImageTerms, LikelihoodEvaluator
from pipeline.evaluation.likelihood_report import (
    LikelihoodReport,
    further_figures,
    likelihood_figure,
    tracked_figures,
)
from pipeline.evaluation.plan import Plan
from pipeline.evaluation.profile_report import VarianceOverTimes, profile_figure, profile_table
from pipeline.evaluation.summary import image_table, profile_errors, summarise, summarise_profile
from pipeline.model.export import load_vdm
from pipeline.parquet_file import parquet_bytes
from pipeline.report_files import png_bytes
from pipeline.storage import Location
from pipeline.tracking import Tracker
from vdm_core.likelihood.time_variance import time_variance

IMAGES, REPORT, PICTURE = "images.parquet", "likelihood.json", "likelihood.png"
PROFILE, PROFILE_PICTURE = "profile.parquet", "profile.png"
UNFINISHED = "unfinished"
KEPT = 2  # the form in which ranges are kept; others are done again
log = logging.getLogger(__name__)


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
    """Run the pool and keep what it finds."""
    marker = plan.output / UNFINISHED / "README"
    marker.write_bytes(b"Figures of an evaluation under way; the job deletes this folder.\n")
    results = collect(plan)
    variance = write_profile(plan, results, tracker)
    report = make_report(plan, results, variance)
    figure = likelihood_figure(
        results, plan.card.dims, plan.dataset.info.class_names, report.iid_pixel_bits_per_dim
    )
    table = image_table(results, plan.card.dims, plan.request)
    (plan.output / REPORT).delete()  # an older one does not describe these images
    (plan.output / IMAGES).write_bytes(parquet_bytes(table))
    (plan.output / PICTURE).write_bytes(png_bytes(figure))
    (plan.output / REPORT).write_bytes(report.model_dump_json(indent=2).encode())
    (plan.output / UNFINISHED).delete_folder()
    if tracker is not None:
        tracker.metrics(plan.card.step, tracked_figures(report))
        tracker.figure(plan.card.step, "likelihood", figure)
        tracker.json("likelihood.json", report.model_dump(mode="json"))
    return report


def collect(plan: Plan) -> list[ImageTerms]:
    """The figures of every image, in the order of the split; what is kept is not done again.

    Raises:
        RuntimeError: an image is missing or there twice.
    """
    total, kept = plan.dataset.info.samples, kept_ranges(plan)
    arguments = (plan.config, plan.model.url)
    finish_ranges(kept, LikelihoodEvaluator, arguments, plan.config.pool, "evaluated")
    results = [ImageTerms(**row) for table in kept.tables() for row in table.to_pylist()]
    if [result.index for result in results] != list(range(total)):
        raise RuntimeError(f"{len(results)} results for {total} images, or not each once")
    return results


def kept_ranges(plan: Plan) -> KeptRanges:
    """Where the figures of finished ranges are kept; a range is one batch."""
    return KeptRanges.of_request(
        plan.output / UNFINISHED,
        plan.image_request | {"format": KEPT},
        total=plan.dataset.info.samples,
        size=plan.config.batch_size,
    )


def write_profile(
    plan: Plan, results: list[ImageTerms], tracker: Tracker | None
) -> VarianceOverTimes | None:
    """The diffusion term over γ as a table and a picture, and what it says about the schedule."""
    if "profile" not in plan.config.bounds.compute:
        return None
    vdm, card = load_vdm(plan.model, plan.config.average_of())
    gammas = profile_gammas(vdm, plan.config.bounds.profile_points)
    profile = summarise_profile(results, gammas, card.dims)
    figure = profile_figure(profile)
    (plan.output / PROFILE).write_bytes(parquet_bytes(profile_table(profile)))
    (plan.output / PROFILE_PICTURE).write_bytes(png_bytes(figure))
    if tracker is not None:
        tracker.figure(card.step, "profile", figure)
    variance = time_variance(vdm.schedule, gammas, profile_errors(results))
    return VarianceOverTimes.of(variance, card.dims)


def make_report(
    plan: Plan, results: list[ImageTerms], variance: VarianceOverTimes | None = None
) -> LikelihoodReport:
    """The means over `results`, and the baseline."""
    baseline = (
        iid_pixel_bits(plan.baseline, plan.dataset, plan.config.transform)
        if plan.baseline
        else None
    )
    return LikelihoodReport(
        bound=summarise(results, plan.card.dims),
        further=further_figures(results, plan.config, plan.card),
        variance=variance,
        iid_pixel_bits_per_dim=baseline,
        time=plan.time,
        conditional=plan.card.model.conditional,
        draws=plan.config.draws,
        split=plan.dataset.info.split,
        model=plan.model.url,
        data=plan.config.path(plan.config.data),
        data_digest=plan.dataset.info.manifest_sha256,
        request=plan.request,
    )
