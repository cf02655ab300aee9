"""What an evaluation is to do: one model and one split that belong together, and where to."""

from dataclasses import dataclass

from pipeline.cluster.submitted import check_submitted_paths
from pipeline.config.evaluate import EvaluateConfig
from pipeline.data.dataset import ShardedDataset, open_dataset
from pipeline.data.select import selected
from pipeline.data.transform import seen_shape
from pipeline.errors import InputError
from pipeline.evaluation.bounds import bound_steps, check_figures, meaning
from pipeline.evaluation.evaluate import time_steps
from pipeline.evaluation.likelihood_report import time_text
from pipeline.metrics import Scalar, flatten
from pipeline.model.export import ModelCard, load_card, newest_model
from pipeline.storage import Location, open_storage
from pipeline.tracking import DatasetUse


@dataclass(frozen=True)
class Plan:
    """An evaluation of one model that has passed its checks."""

    config: EvaluateConfig
    model: Location
    card: ModelCard
    dataset: ShardedDataset
    baseline: ShardedDataset | None
    output: Location

    @property
    def request(self) -> dict[str, Scalar]:
        """What the figures depend on."""
        baseline = self.baseline.info.manifest_sha256 if self.baseline else None
        return self.image_request | {"baseline_manifest_sha256": baseline}

    @property
    def image_request(self) -> dict[str, Scalar]:
        """What the figures of an image depend on."""
        return (
            self.card.identity
            | self._further_request
            | {
                "data_manifest_sha256": self.dataset.info.manifest_sha256,
                "select": self.config.select.model_dump_json(exclude_defaults=True),
                "transform": self.config.transform.model_dump_json(exclude_defaults=True),
                "steps": time_steps(self.config, self.card),
                "draws": self.config.draws,
                "seed": self.config.seed,
            }
        )

    @property
    def _further_request(self) -> dict[str, Scalar]:
        bounds = self.config.bounds
        if not bounds.compute:
            return {}
        asked = bounds.model_dump(mode="json") | {
            "compute": sorted(set(bounds.compute)),
            "steps": bound_steps(self.config, self.card),
        }
        return flatten(asked, "bounds.")

    @property
    def params(self) -> dict[str, Scalar]:
        """What MLflow shows beside the figures."""
        place = {"data": self.config.path(self.config.data), "split": self.dataset.info.split}
        return self.request | place | {"time": self.time}

    @property
    def time(self) -> str:
        """In which time the bound holds, or over how many latents."""
        return time_text(self.card.model, time_steps(self.config, self.card))

    @property
    def data_use(self) -> DatasetUse:
        """The split, for the page of the evaluation's run."""
        info, url = self.dataset.info, self.config.path(self.config.data)
        return DatasetUse(info.split, info.manifest_sha256, url, info.samples, "evaluation")

    def text(self) -> str:
        """The plan in words."""
        info = self.dataset.info
        further = "".join(
            f"\n  {name}: {meaning(name, self.config, bound_steps(self.config, self.card))}"
            for name in self.config.bounds.compute
        )
        return (
            f"plan: the bound of {info.samples:,} {info.split} images {info.shape}, "
            f"draws per image: {self.config.draws}, "
            f"{self.time}, to {self.output}\n"
            f"  model {self.model}: {self.card.run} after step {self.card.step}, "
            f"{self.card.average.text}{further}"
        )


def make_plans(config: EvaluateConfig) -> list[Plan]:
    """Open the models and the data and see that they belong together; write nothing.

    Of several models, each gets a folder of its own below the output.

    Raises:
        InputError: no model, no data, images or classes other than a model's, a figure that
            a model cannot be asked for, an output that a submitted job would lose.
    """
    if config.output:
        check_submitted_paths(config, "output")
    dataset = selected(open_dataset(config.path(config.data)), config.select)
    if dataset.info.samples < 2:
        raise InputError(f"{config.data} has one image; a standard error takes at least 2")
    baseline = open_dataset(config.path(config.baseline_data)) if config.baseline_data else None
    return [_plan(config, number, dataset, baseline) for number in range(len(config.model))]


def _plan(
    config: EvaluateConfig, number: int, dataset: ShardedDataset, baseline: ShardedDataset | None
) -> Plan:
    ema = config.average_of(number)
    one = {"model": (config.model[number],), "ema": () if ema is None else (ema,)}
    single = config.model_copy(update=one)
    model = newest_model(open_storage(config.path(config.model[number])))
    card = load_card(model, ema)
    check_figures(config, card)
    _check_fits(config, config.data, dataset, card)
    if baseline is not None and config.baseline_data is not None:
        _check_fits(config, config.baseline_data, baseline, card)
    if card.model.conditional and dataset.info.classes != card.classes:
        raise InputError(
            f"{config.data} has {dataset.info.classes} classes, the model {card.classes}"
        )
    if config.output is None:
        check_submitted_paths(config, "model")
        output = model / ("evaluation" if ema is None else f"evaluation-{ema.name}")
    else:
        output = open_storage(config.path(config.output))
        if len(config.model) > 1:
            name = f"{card.run}-step-{card.step}-{card.average.name}"
            output = output / f"{number + 1:02d}-{name}"
    return Plan(single, model, card, dataset, baseline, output)


def _check_fits(
    config: EvaluateConfig, path: str, dataset: ShardedDataset, card: ModelCard
) -> None:
    shape = seen_shape(config.transform, dataset.info.shape)
    if shape != card.shape or dataset.info.levels != card.levels:
        raise InputError(
            f"{path} has images {shape} of {dataset.info.levels} levels but the "
            f"model was trained on {card.shape} of {card.levels}"
        )
