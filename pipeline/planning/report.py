"""A plan for people, with its assumptions in the open, and all its figures for programs."""

import math
from collections.abc import Callable
from typing import Any

from pipeline.metrics import duration_text
from pipeline.planning.fits import GIB
from pipeline.planning.forecast import Forecast
from pipeline.planning.plan import ClusterPlan

ASSUMPTIONS = """\
assumptions
  compute        the two passes at the rate above, activations kept
  update         every element of state once through the memory, or as measured
  communication  ring collectives, none of them hidden behind computing
  activations    as PyTorch's CPU kernels keep them; recomputing is not known here
  data           shards are read from the storage as often as `reads` says; decoding keeps up
  failures       independent, at a constant rate, each ends the job; spare nodes are at hand
  checkpoints    copied to the host while training waits, written beside it; saved at the best time
  workers alike  no stragglers; the first start, reports and pictures are not in it"""


def plan_text(plan: ClusterPlan) -> str:
    """Tables of memory and of each number of GPUs, and what was assumed."""
    work, config = plan.work, plan.config
    source = _source(plan)
    head = (
        f"plan: {config.name}, {work.images:,} images of {work.image_bytes:,.0f} bytes in all\n"
        f"  model   {work.parameters:,} parameters, {work.flops / 1e9:.4g} GFLOP to train on an "
        f"image\n"
        f"  rate    {_rate(plan) / 1e12:.4g} TFLOP/s of a GPU ({source})\n"
    )
    impossible = [f"{gpus:>6}  not possible: {why}" for gpus, why in plan.impossible.items()]
    return "\n".join(
        [head, _memory_table(plan), "", _scale_table(plan), *impossible, "", ASSUMPTIONS]
    )


def _rate(plan: ClusterPlan) -> float:
    """FLOP/s of a GPU in the passes, at the micro-batch of the run itself."""
    size = plan.config.micro_batch
    return size * plan.work.flops / plan.speed.passes[size].seconds


def _unseen(plan: ClusterPlan) -> float:
    """The share of that time which is of operations that no calibration has timed."""
    return plan.speed.passes[plan.config.micro_batch].unseen_share


def _source(plan: ClusterPlan) -> str:
    if not plan.config.calibrations:
        return "peak x achieved"
    unseen = _unseen(plan)
    beyond = f"; {unseen:.0%} of the time is of kinds that it has not seen" if unseen else ""
    return f"operation by operation, as jobs.benchmark timed them{beyond}"


def _memory_table(plan: ClusterPlan) -> str:
    room = plan.room / GIB
    lines = [
        f"memory of a GPU among {plan.workers}, in GiB; there are {room:.4g}",
        "stage  micro-batch  weights  optimizer  averages  buffers  passes  update    peak",
    ]
    for (stage, size), memory in plan.memory.items():
        sizes = [part / GIB for part in memory] + [memory.peak / GIB]
        cells = "".join(f"{x:>{w}.3f}" for x, w in zip(sizes, (9, 11, 10, 9, 8, 8, 8), strict=True))
        verdict = "" if memory.peak <= plan.room else "  does not fit"
        lines.append(f"{stage:>5}{size:>13}{cells}{verdict}")
    return "\n".join(lines)


_COLUMNS: dict[str, tuple[int, Callable[[Forecast], str]]] = {
    "GPUs": (6, lambda row: str(row.gpus)),
    "batch": (9, lambda row: str(row.batch)),
    "GiB of a GPU": (14, lambda row: f"{row.memory.peak / GIB:.2f}"),
    "step ms": (9, lambda row: f"{1e3 * row.step:.1f}"),
    "compute": (9, lambda row: f"{1e3 * row.compute:.1f}"),
    "update": (8, lambda row: f"{1e3 * row.update:.1f}"),
    "comm.": (8, lambda row: f"{1e3 * row.communication:.1f}"),
    "data": (9, lambda row: f"{1e3 * row.data:.1f}"),
    "bound": (15, lambda row: row.bound),
    "images/s": (10, lambda row: f"{row.images_per_second:,.0f}"),
    "reads": (7, lambda row: str(row.reads_per_image)),
    "shards MB/s": (13, lambda row: f"{row.shard_bytes_per_second / 1e6:.1f}"),
    "save GB": (9, lambda row: f"{row.checkpoint_bytes / 1e9:.3f}"),
    "stall": (9, lambda row: f"{row.stall:.3f}s"),
    "every": (10, lambda row: _short(row.interval)),
    "MTBF": (9, lambda row: "never" if row.mtbf == math.inf else duration_text(row.mtbf)),
    "goodput": (9, lambda row: f"{row.goodput:.3f}"),
    "days": (10, lambda row: f"{row.days:.3f}"),
    "cost": (14, lambda row: f"{row.cost:,.2f}"),
}


def _scale_table(plan: ClusterPlan) -> str:
    head = "".join(f"{name:>{width}}" for name, (width, _) in _COLUMNS.items())
    lines = [f"{plan.config.scaling} scaling; times of a step in ms", head]
    for row in plan.forecasts:
        cells = "".join(f"{text(row):>{width}}" for width, text in _COLUMNS.values())
        lines.append(cells + ("" if row.memory.peak <= plan.room else "  does not fit"))
    again = [row for row in plan.forecasts if row.reads_per_image > 1]
    if again:
        lanes, counts = plan.config.data.lanes, ", ".join(str(row.gpus) for row in again)
        lines.append(
            f"On {counts} GPUs images are read more than once: make data.lanes ({lanes}) a "
            "multiple of the GPUs before the run begins."
        )
    return "\n".join(lines)


def _short(seconds: float) -> str:
    return f"{seconds:.2g}s" if seconds < 60 else duration_text(seconds)


def plan_figures(plan: ClusterPlan) -> dict[str, Any]:
    """Everything as JSON; bytes, seconds and FLOP/s. What is infinite is null."""
    memory = [
        {"zero_stage": stage, "micro_batch": size, "fits": m.peak <= plan.room, "peak": m.peak}
        | m._asdict()
        for (stage, size), m in plan.memory.items()
    ]
    rows = [
        {name: _finite(value) for name, value in row._asdict().items() if name != "memory"}
        | {"peak_memory": row.memory.peak, "fits": row.memory.peak <= plan.room}
        for row in plan.forecasts
    ]
    work = plan.work
    return {
        "name": plan.config.name,
        "units": "bytes, seconds, FLOP/s; cost in the currency of hardware.price_per_gpu_hour",
        "parameters": work.parameters,
        "training_flops_per_image": work.flops,
        "images": work.images,
        "image_bytes": work.image_bytes,
        "flops_per_second_of_a_gpu": _rate(plan),
        "unseen_share_of_passes": _unseen(plan),
        "memory": memory,
        "forecasts": rows,
        "impossible": plan.impossible,
        "hardware": plan.config.hardware.model_dump(),
        "assumptions": [line.strip() for line in ASSUMPTIONS.splitlines()[1:]],
    }


def _finite(value: Any) -> Any:
    return None if value in (math.inf, -math.inf) else value
