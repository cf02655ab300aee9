"""What this cluster makes of a training configuration: each part timed alone, then all together.

    python -m jobs.benchmark --config jobs/presets/fashion_mnist_cpu.yaml

Loader, step, training loop, checkpoint, on one worker and on more, in float32 and bfloat16; and
what bounds the run, in words. Trains nothing: weights and checkpoints of it are thrown away.
"""

import logging
import sys

from jobs.cli import run
from pipeline.benchmark.launch import run_benchmark
from pipeline.benchmark.plan import FILES, make_plan
from pipeline.benchmark.report import benchmark_figure, benchmark_table
from pipeline.cluster.connect import connected
from pipeline.config.benchmark import BenchmarkConfig
from pipeline.training.launch import await_resources

log = logging.getLogger(__name__)


def main(config: BenchmarkConfig) -> None:
    """Measure, then write and print the table; an earlier one in the same folder is replaced."""
    plan = make_plan(config)
    log.info("%s", plan.text())
    with connected():
        await_resources(config.trial(config.most_workers).cluster)
        report = run_benchmark(plan)
    table, numbers = benchmark_table(report), report.model_dump_json(indent=2).encode()
    FILES.write(plan.output, table, benchmark_figure(report), numbers)
    log.info("table and picture in %s", plan.output)
    print(table)


if __name__ == "__main__":
    sys.exit(run(BenchmarkConfig, main, plan=lambda c: make_plan(c).text(), description=__doc__))
