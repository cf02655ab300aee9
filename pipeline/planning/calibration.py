"""What the hardware at hand achieves, from a benchmark that `jobs.benchmark` has left."""

from typing import NamedTuple

from pydantic import ValidationError

from pipeline.benchmark.plan import REPORT
from pipeline.benchmark.records import BenchmarkReport
from pipeline.config.plan import HardwareConfig
from pipeline.errors import InputError
from pipeline.storage import open_storage


class Calibration(NamedTuple):
    """Measured on `workers` workers.

    `rate`: FLOP/s of one of them in the two passes. `update_seconds`: of optimizer and averages,
    for each element that a worker updates. `copied`: bytes/s of its state to host memory. `link`:
    bytes/s in and out of it in an all-reduce; None where there was one worker.
    """

    workers: int
    rate: float
    update_seconds: float
    copied: float
    link: float | None


def read_calibration(folder: str, precision: str) -> Calibration:
    """The benchmark in `folder`, which has to be of this precision.

    Raises:
        InputError: there is none, it cannot be read, or it is of another precision.
    """
    file = open_storage(folder) / REPORT
    try:
        report = BenchmarkReport.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        raise InputError(
            f"calibration={folder} has no {REPORT}; make it by jobs.benchmark"
        ) from None
    except ValidationError as error:
        raise InputError(f"{file} is no report of jobs.benchmark: {error}") from None
    measured = report.trials[0].compute.precision
    if measured != precision:
        raise InputError(
            f"{file} was measured in {measured} and the run is in {precision}; run jobs.benchmark "
            f"with deepspeed.precision={precision}"
        )
    return calibration_of(report)


def calibration_of(report: BenchmarkReport) -> Calibration:
    """Arithmetic from the fewest workers, where it is not mixed with communication, the rest from
    the most.
    """
    first, last = report.trials[0], report.trials[-1]
    phases = first.compute.phases
    images = first.global_batch / first.workers
    updated = report.parameters / (1 if report.zero_stage == 0 else first.workers)
    link = None
    if last.all_reduce is not None:
        moved = 2 * (last.workers - 1) / last.workers * 4 * report.parameters
        link = moved / last.all_reduce.median
    return Calibration(
        workers=last.workers,
        rate=report.training_flops * images / (phases["forward"] + phases["backward"]),
        update_seconds=(phases["optimizer"] + phases["average"]) / updated,
        copied=report.state_bytes / last.workers / last.stall.median,
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
