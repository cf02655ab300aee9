"""Take a model out of a training run: weights as safetensors, a card, the schedule, a README.

    python -m jobs.export run=runs/fashion_mnist_cpu output=models/small ema.width=0.07

The result stands alone: sampling, evaluation and other projects load it, and no pickle is in it.
A run that trained a classifier leaves a classifier, as guidance and `jobs.quality` take it.
"""

import logging
import sys
from dataclasses import dataclass

from jobs.cli import run
from pipeline.checkpoint.record import checkpoint_name, committed
from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.export import ExportConfig
from pipeline.config.model import ScheduledClassifierConfig
from pipeline.errors import InputError
from pipeline.model.classifier_export import classifier_of_run, is_written, write_classifier
from pipeline.model.export import RunCard, load_model, load_run_card, model_card
from pipeline.model.export_folder import is_exported, write_export
from pipeline.storage import Location, open_storage

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """A model of a run that can be had, and where it goes."""

    config: ExportConfig
    checkpoint: Location
    card: RunCard
    output: Location
    exported: bool

    def text(self) -> str:
        """The plan in words."""
        card, there = self.card, " (it is there already)" if self.exported else ""
        model = f"{card.run} after step {card.step:,}, {card.average.text}"
        return f"plan: {model}, to {self.output}{there}"


def make_plan(config: ExportConfig) -> Plan:
    """Find the model and look at the output; write nothing.

    Raises:
        InputError: the run has no such model, or the output holds something else.
    """
    check_submitted_paths(config, "run", "output")
    folder = open_storage(config.path(config.run))
    found = {record.step: folder / name for name, record in committed(folder)}
    if not found:
        raise InputError(
            f"run={config.run}: {folder} has no complete checkpoint; give the folder of a run of "
            "jobs.train"
        )
    step = max(found) if config.step is None else config.step
    if step not in found:
        steps = ", ".join(map(str, sorted(found)))
        raise InputError(
            f"run={config.run}: no {checkpoint_name(step)} in {folder}; complete are those after "
            f"{steps}"
        )
    card = load_run_card(found[step], config.ema)
    output = open_storage(config.path(config.output))
    return Plan(config, found[step], card, output, _is_there(output, card))


def _is_there(output: Location, card: RunCard) -> bool:
    if isinstance(card.model, ScheduledClassifierConfig):
        return is_written(output, card)
    return is_exported(output, model_card(card))


def main(config: ExportConfig) -> None:
    """Write the export, unless it is there already."""
    plan = make_plan(config)
    if plan.exported:
        log.info("%s is complete already", plan.output)
        return
    card = plan.card
    if isinstance(card.model, ScheduledClassifierConfig):
        write_classifier(plan.output, *classifier_of_run(plan.checkpoint, config.ema))
    else:
        model, own = load_model(plan.checkpoint, config.ema)
        write_export(plan.output, model.state_dict(), own)
    log.info("%s: %s after step %d, %s", plan.output, card.run, card.step, card.average.text)


if __name__ == "__main__":
    sys.exit(run(ExportConfig, main, plan=lambda c: make_plan(c).text(), description=__doc__))
