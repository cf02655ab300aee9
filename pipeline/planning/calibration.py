"""What the hardware at hand achieves, from benchmarks that `jobs.benchmark` has left."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from pipeline.benchmark.plan import REPORT
from pipeline.benchmark.records import BenchmarkReport
from pipeline.config.plan import HardwareConfig
from pipeline.errors import InputError
from pipeline.planning.pass_times import PassTimes
from pipeline.storage import open_storage


@dataclass(frozen=True)
class Calibration:
    """Measured on `workers` workers at most.

    `passes`: what any network's passes take on one of them. `update_seconds`: of optimizer and
    averages, for each element that a worker updates. `copied`: bytes/s of its state to host memory.
    `link`: bytes/s in and out of it in an all-reduce; None where there was one worker.
    """

    workers: int
    passes: PassTimes
    update_seconds: float
    copied: float
    link: float | None


def read_calibration(folders: Iterable[str], precision: str) -> Calibration:
    """The benchmarks in `folders`, which have to be of this precision and of like devices.

    Raises:
        InputError: one is not there, cannot be read, or does not fit to the run or the others.
    """
    reports = [_read(folder, precision) for folder in folders]
    devices = sorted({report.trials[0].device for report in reports})
    if len(devices) > 1:
        raise InputError(
            f"calibration has benchmarks of {' and of '.join(devices)}; give those of one device"
        )
    return calibration_of(reports)


def _read(folder: str, precision: str) -> BenchmarkReport:
    file = open_storage(folder) / REPORT
    try:
        report = BenchmarkReport.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"calibration={folder} has no {REPORT}; make it by jobs.benchmark"
        ) from None
    except ValidationError as error:
        raise InputError(
            f"{file} is no report of jobs.benchmark, or one of another version: {error}"
        ) from None
    if not report.passes:
        raise InputError(
            f"{file} has no times of operations; run jobs.benchmark with measure.operations=true"
        )
    measured = report.trials[0].compute.precision
    if measured != precision:
        raise InputError(
            f"{file} was measured in {measured} and the run is in {precision}; run jobs.benchmark "
            f"with deepspeed.precision={precision}"
        )
    return report


def calibration_of(reports: Sequence[BenchmarkReport]) -> Calibration:
    """Arithmetic from the fewest workers of each, where it is not mixed with communication; the
    rest from the most.
    """
    updating = updated = 0.0
    for report in reports:
        first = report.trials[0]
        updating += first.compute.phases["optimizer"] + first.compute.phases["average"]
        updated += report.parameters / (1 if report.zero_stage == 0 else first.workers)
    most = max(reports, key=lambda report: report.trials[-1].workers)
    last = most.trials[-1]
    link = None
    if last.all_reduce is not None:
        moved = 2 * (last.workers - 1) / last.workers * 4 * most.parameters
        link = moved / last.all_reduce.median
    return Calibration(
        workers=last.workers,
        passes=PassTimes(reports),
        update_seconds=updating / updated,
        copied=most.state_bytes / last.workers / last.stall.median,
        link=link,
    )


def calibrated(hardware: HardwareConfig, found: Calibration) -> HardwareConfig:
    """The hardware with what was measured in the place of what was described.

    Workers that fit into a node are taken to have been in one.
    """
    changes = {"host_gbytes_per_second": found.copied / 1e9}
    if found.link is not None:
        within = found.workers <= hardware.gpus_per_node
        name = "node" if within else "network"
        changes[f"{name}_gbytes_per_second"] = found.link / 1e9
    return hardware.model_copy(update=changes)
