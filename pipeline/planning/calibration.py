"""What a worker achieves on hardware where a run has been: read from the run's journal."""

from statistics import median

from pipeline.errors import InputError
from pipeline.storage import open_storage
from pipeline.tracking.journal import read_records
from pipeline.training.run_record import read_run

_FLOPS = "train/model_flops_per_second"


def measured_rate(folder: str) -> float:
    """FLOP/s of a worker: the median over the reports of the run in `folder`, all told.

    Waiting for data and for other workers is in it, so communication counts twice where the run
    had several workers: a run of one worker is the better measure.

    Raises:
        InputError: there is no run, its number of workers varied, or it has no reports.
    """
    record = read_run(open_storage(folder))
    if record is None:
        raise InputError(f"calibration={folder} is no training run: it has no run.json")
    workers = record.config.cluster.worker_counts
    if len(workers) > 1:
        raise InputError(f"calibration={folder} had a varying number of workers; give another run")
    reports = [record.get("values", {}) for record in read_records(f"{folder}/journal.jsonl")]
    rates = [values[_FLOPS] for values in reports if _FLOPS in values]
    if not rates:
        raise InputError(
            f"calibration: {folder}/journal.jsonl has no {_FLOPS}; give a run that has reported"
        )
    return median(rates) / workers[0]
