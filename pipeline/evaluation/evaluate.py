"""One range of images to their likelihood figures: the unit of work of the evaluation job.

Image i takes its d-th time from one grid over all images and draws, and its noise from its own
place in the split, so the result does not depend on how the split is cut or by how many workers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import torch
from torch import Tensor

from pipeline.cluster.kept_ranges import Range
from pipeline.config.evaluate import EvaluateConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.select import selected
from pipeline.data.stream import iterate_once
from pipeline.evaluation.bounds import bound_steps, figure_of_images
from pipeline.model.export import ModelCard, load_model
from pipeline.model.generative import Generative
from pipeline.storage import open_storage
from vdm_core import VAE, VDM, HierarchicalVAE, LatentVDM
from vdm_core.records import Batch
from vdm_core.rng import Purpose, normal, stratified_times


@dataclass(frozen=True)
class ImageTerms:
    """The figures of one image in nats; None is what nobody asked for.

    `terms`: of the default bound, by name, means over the draws. `discrete` to `importance` are
    totals of further figures, and `profile` is |ε - ε̂|² at each γ of the profile.
    """

    index: int
    key: str
    label: int | None
    terms: dict[str, float]
    discrete: float | None = None
    continuous: float | None = None
    ode: float | None = None
    importance: float | None = None
    profile: list[float] | None = None

    def nats(self, name: str) -> float:
        """A term of the default bound, or a further figure."""
        value = self.terms[name] if name in self.terms else getattr(self, name)
        assert isinstance(value, float)
        return value


FIGURES = ("discrete", "continuous", "ode", "importance")  # totals, one an image


def _schema(terms: Sequence[str]) -> pa.Schema:
    return pa.schema(
        [("index", pa.int64()), ("key", pa.string()), ("label", pa.int64())]
        + [("terms", pa.struct([(name, pa.float64()) for name in terms]))]
        + [(name, pa.float64()) for name in FIGURES]
        + [("profile", pa.list_(pa.float64()))]
    )


def time_steps(config: EvaluateConfig, card: ModelCard) -> int | None:
    """T of the evaluated bound; None is continuous time, or a model without any."""
    return config.steps if config.steps is not None else card.model.steps


class LikelihoodEvaluator:
    """A model and a split in memory, turning ranges into per-image terms."""

    def __init__(self, config: EvaluateConfig, model: str) -> None:
        """Load the model from the URL or absolute path `model`, and open the split."""
        self.config = config
        self.device = torch.device("cuda" if config.pool.gpus_per_actor > 0 else "cpu")
        loaded, self.card = load_model(open_storage(model), config.average_of())
        set_steps(loaded, time_steps(config, self.card))
        self.model = loaded.to(self.device)
        self.dataset = selected(open_dataset(config.path(config.data)), config.select)

    def __call__(self, items: Range) -> pa.Table:
        """The figures of the images at these places of the split, as `ImageTerms` has them."""
        rows = [asdict(image) for image in self.images(items)]
        return pa.Table.from_pylist(rows, schema=_schema(self.model.term_names))

    def images(self, places: Range) -> list[ImageTerms]:
        """The same as records, in the order of the split; a bad image is an error."""
        results: list[ImageTerms] = []
        for batch in iterate_once(
            self.dataset,
            start=places.start,
            stop=places.stop,
            batch_size=self.config.batch_size,
            transform=self.config.transform,
        ):
            results += self._batch(batch)
        return results

    @torch.no_grad()
    def _batch(self, batch: Batch) -> list[ImageTerms]:
        images = batch.images.to(self.device).contiguous()
        labels = batch.labels if self.card.model.conditional else None
        labels = None if labels is None else labels.to(self.device)
        answers = [
            torch.stack([*self.model(images, labels, **self._draws(batch, draw)).named().values()])
            for draw in range(self.config.draws)
        ]
        terms = torch.stack(answers).double().mean(0).T.tolist()
        columns = self._further(images, batch.indices.to(self.device), labels)
        return [
            ImageTerms(
                index=int(batch.indices[row]),
                key=batch.keys[row],
                label=None if batch.labels is None else int(batch.labels[row]),
                terms=dict(zip(self.model.term_names, terms[row], strict=True)),
                **{name: values[row] for name, values in columns.items()},
            )
            for row in range(len(images))
        ]

    def _further(
        self, images: Tensor, indices: Tensor, labels: Tensor | None
    ) -> dict[str, list[Any]]:
        """The figures beside the bound, by name; only a VDM has been asked for any."""
        if not isinstance(self.model, VDM):
            return {}
        steps = bound_steps(self.config, self.card)
        return {
            name: figure_of_images(name, self.model, images, indices, labels, self.config, steps)
            .double()
            .tolist()
            for name in self.config.bounds.compute
        }

    def _draws(self, batch: Batch, draw: int) -> dict[str, Tensor]:
        seed, indices = self.config.seed, batch.indices.to(self.device)
        images, (_, *shape) = self.dataset.info.samples, batch.images.shape
        channels, height, width = shape
        return {
            name: stratified_times(seed, indices + draw * images, images * self.config.draws)
            if need.purpose is Purpose.TIMES
            else normal(seed, need.purpose, indices, need.shape, step=draw)
            for name, need in self.model.draws((channels, height, width)).items()
        }


def set_steps(model: Generative, steps: int | None) -> None:
    """Have the bound of a VDM, or of one of latents, taken over T = `steps`; None: continuous."""
    match model:
        case VDM():
            model.steps = steps
        case LatentVDM():
            model.vdm.steps = steps
        case VAE() | HierarchicalVAE():
            assert steps is None
