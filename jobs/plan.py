"""Know before you pay: what a training run needs, takes and costs on a cluster that is described.

    python -m jobs.plan --config jobs/presets/fashion_mnist_cpu.yaml \\
        --config jobs/presets/h100_cluster.yaml cluster.workers=8

Nothing runs: the network is counted and watched without data. Exit code 1 where the run as it is
configured does not fit into a GPU of the cluster.
"""

import json
import sys

from jobs.cli import run
from pipeline.config.plan import PlanConfig
from pipeline.errors import RunFailedError
from pipeline.planning.fits import GIB, memory_text, remedy
from pipeline.planning.plan import plan_cluster
from pipeline.planning.report import plan_figures, plan_text
from pipeline.storage import open_storage


def main(config: PlanConfig) -> None:
    """Print the plan, and write its figures where `output` says."""
    plan = plan_cluster(config)
    print(plan_text(plan))
    if config.output is not None:
        figures = json.dumps(plan_figures(plan), indent=2, allow_nan=False) + "\n"
        open_storage(config.path(config.output)).write_bytes(figures.encode())
    memory = plan.memory[config.deepspeed.zero_stage, config.micro_batch]
    if memory.peak > plan.room:
        raise RunFailedError(
            f"the run does not fit into hardware.memory_gib={config.hardware.memory_gib:g}, of "
            f"which {config.hardware.reserved_gib:g} are reserved. A GPU would need "
            f"{memory.peak / GIB:.3g} GiB: {memory_text(memory)}. {remedy(plan.memory, plan.room)}"
        )


if __name__ == "__main__":
    sys.exit(run(PlanConfig, main, description=__doc__))
