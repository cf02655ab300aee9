"""What tracking costs the training thread, beside MLflow's own asynchronous and plain logging.

Each step computes for some milliseconds and then reports 45 figures, as a run does every
`tracking.log_every` steps: to our tracker, to MLflow's queue (`synchronous=False`), to MLflow.
Timed is the report alone. What every step pays, marks and sums on the device, is timed as well.

    OMP_NUM_THREADS=1 python -m pytest tests/benchmarks/test_tracking_speed.py -m benchmark -s
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from mlflow import MlflowClient
from mlflow.entities import Metric

from pipeline.tracking import Tracker, open_run, prepare_store, store_uri
from pipeline.training.interval import IntervalMeter
from pipeline.training.phase_timer import PHASES
from vdm_core.records import ElboTerms

# MLflow's own use of SQLAlchemy, not ours.
pytestmark = [
    pytest.mark.benchmark,
    pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy"),
]

STEPS, BATCH = 100, 64
NAMES = [f"group_{i % 5}/figure_{i}" for i in range(45)]
MATRIX = torch.randn(400, 400)
Report = Callable[[int, dict[str, float]], object]


def milliseconds(report: Report) -> list[float]:
    """Time of the report in each step; between reports the processor is busy elsewhere."""
    times = []
    for step in range(STEPS):
        (MATRIX @ MATRIX @ MATRIX).sum()
        values = dict.fromkeys(NAMES, step / 7)
        start = time.perf_counter()
        report(step, values)
        times.append(1000 * (time.perf_counter() - start))
    return times


def metrics(step: int, values: dict[str, float]) -> list[Metric]:
    return [Metric(name, value, 0, step) for name, value in values.items()]


def test_a_report(tmp_path: Path) -> None:
    """Ours, MLflow's queue and plain MLflow into SQLite, one after the other."""
    uri = store_uri(None, tmp_path)
    prepare_store(uri)
    client, runs = MlflowClient(uri), [open_run(uri, "speed", name, {}) for name in "abc"]
    tracker = Tracker(uri, runs[0], tmp_path / "journal.jsonl")
    rows = {"this project": milliseconds(tracker.metrics)}
    assert tracker.close()
    assert len(client.get_metric_history(runs[0], NAMES[0])) == STEPS
    rows["MLflow, asynchronous"] = milliseconds(
        lambda step, values: client.log_batch(runs[1], metrics(step, values), synchronous=False)
    )
    rows["MLflow"] = milliseconds(
        lambda step, values: client.log_batch(runs[2], metrics(step, values))
    )
    for name, times in rows.items():
        middle, late = statistics.median(times), statistics.quantiles(times, n=20)[-1]
        print(f"\n{name:22} median {middle:.3f} ms, 95 % under {late:.3f} ms a report", end="")
    ours, queue, plain = (statistics.median(times) for times in rows.values())
    print(
        f"\nthis project / MLflow, asynchronous {ours / queue:.2f}, / MLflow {ours / plain:.3f}; "
        f"a report every 20 steps: {ours / 20:.4f} ms a step"
    )


def test_what_every_step_pays() -> None:
    """Marks and sums of a step, apart from its reports."""
    meter = IntervalMeter(ElboTerms._fields, torch.device("cpu"))
    terms = ElboTerms(*(torch.rand(BATCH) for _ in ElboTerms._fields))
    times, valid = torch.rand(BATCH), torch.ones(BATCH, dtype=torch.bool)
    took = []
    for _ in range(STEPS):
        start = time.perf_counter()
        meter.add(terms, times, valid)
        for phase in PHASES[:6]:
            meter.mark(phase)
        took.append(1000 * (time.perf_counter() - start))
    print(f"\nmarks and sums of a step: median {statistics.median(took):.3f} ms")
