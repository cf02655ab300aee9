"""Draw a data set of images from a trained model: WebDataset shards that our own stream reads.

    python -m jobs.sample --config jobs/presets/fashion_mnist_sample.yaml guidance_scale=3

Killed and run again, it keeps the finished shards and makes the rest.
"""

import io
import logging
import sys
from dataclasses import asdict, dataclass

import numpy as np
from PIL import Image

from jobs.cli import run
from pipeline.cluster.connect import connected
from pipeline.cluster.pool import run_tasks
from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.sample import SampleConfig
from pipeline.data.dataset import open_dataset
from pipeline.model.export import ModelCard, load_card
from pipeline.prepare.class_grid import class_grid
from pipeline.progress import Progress
from pipeline.sampling.generate import ShardGenerator
from pipeline.sampling.sample_set import (
    Identity,
    ShardTask,
    finish_samples,
    finished_rows,
    open_output,
    plan_identity,
    plan_shards,
)
from pipeline.storage import Location, open_storage
from pipeline.tracking import Tracker
from pipeline.tracking.nested_run import nested_run
from pipeline.training.checkpoint_record import newest_model

GRID = "grid.png"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A request for samples that has passed its checks."""

    config: SampleConfig
    model: Location
    card: ModelCard
    tasks: list[ShardTask]
    output: Location

    @property
    def identity(self) -> Identity:
        """What the shards depend on."""
        return plan_identity(self.config, self.card)

    def text(self) -> str:
        """The plan in words."""
        return (
            f"plan: {self.tasks[-1].stop:,} samples in {len(self.tasks)} shards to {self.output}\n"
            f"  model {self.model}: {self.card.run} after step {self.card.step}, "
            f"images {self.card.shape}"
        )


def make_plan(config: SampleConfig) -> Plan:
    """Find the model and see that it can do what is asked; write nothing.

    Raises:
        InputError: no model, classes or guidance that it does not know, an output that a
            submitted job would lose.
    """
    check_submitted_paths(config, "output")
    model = newest_model(open_storage(config.path(config.model)))
    card = load_card(model)
    output = open_storage(config.path(config.output))
    return Plan(config, model, card, plan_shards(config, card), output)


def main(config: SampleConfig) -> None:
    """Make the shards that are missing, then the manifest, `dataset.json` and the grid."""
    plan = make_plan(config)
    if open_output(plan.output, plan.identity, overwrite=config.overwrite):
        log.info("%s is complete already", plan.output)
        if (plan.output / GRID).size() is None:
            draw_grid(plan, None)
        return
    params = plan.identity | {"samples": plan.tasks[-1].stop, "output": str(plan.output)}
    with connected(), nested_run(plan.model, plan.card, "sample", params) as tracker:
        make_shards(plan)
        info = finish_samples(plan.output, plan.tasks, plan.identity, plan.card)
        draw_grid(plan, tracker)
    log.info("%d samples in %s, grid %s", info.samples, plan.output, plan.output / GRID)


def make_shards(plan: Plan) -> None:
    """Make every shard that is not finished yet."""
    done = finished_rows(plan.output)
    missing = [task for task in plan.tasks if task.shard not in done]
    log.info("%s: %d of %d shards to make", plan.output, len(missing), len(plan.tasks))
    if not missing:
        return
    progress = Progress("drawn", sum(task.stop - task.start for task in missing), "samples")
    tasks, arguments = [asdict(task) for task in missing], (plan.config, plan.model.url)
    for rows in run_tasks(tasks, ShardGenerator, arguments, plan.config.pool):
        progress.add(sum(row["samples"] for row in rows))


def draw_grid(plan: Plan, tracker: Tracker | None) -> None:
    """Write `grid.png`, a row for each class, read back through our own stream."""
    dataset, config = open_dataset(plan.output.url), plan.config
    classes = dataset.info.classes or 1
    columns = min(config.grid_columns, config.per_class)
    png = class_grid(dataset, rows=classes, columns=columns)
    (plan.output / GRID).write_bytes(png)
    if tracker is not None:
        tracker.image(plan.card.step, "samples", np.asarray(Image.open(io.BytesIO(png))))


if __name__ == "__main__":
    sys.exit(run(SampleConfig, main, plan=lambda c: make_plan(c).text(), description=__doc__))
