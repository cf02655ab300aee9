"""One range of images to their likelihood figures: the unit of work of the evaluation job.

Image i takes its d-th time from one grid over all images and draws, and its noise from its own
place in the split, so the result does not depend on how the split is cut or by how many workers.
"""

from dataclasses import asdict, dataclass

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
from pipeline.storage import open_storage
from vdm_core.records import Batch
from vdm_core.rng import Purpose, normal, stratified_times


@dataclass(frozen=True)
class ImageTerms:
    """The figures of one image in nats; None is what the model has not, or nobody asked for.

    The terms of the default bound are means over the draws. `discrete` to `importance` are totals
    of further figures, and `profile` is |ε - ε̂|² at each γ of the profile.
    """

    index: int
    key: str
    label: int | None
    reconstruction: float
    prior: float
    diffusion: float
    auxiliary: float | None = None
    discrete: float | None = None
    continuous: float | None = None
    ode: float | None = None
    importance: float | None = None
    profile: list[float] | None = None


_NATS = (
    "reconstruction", "prior", "diffusion", "auxiliary", "discrete", "continuous", "ode",
    "importance",
)  # fmt: skip
_SCHEMA = pa.schema(
    [("index", pa.int64()), ("key", pa.string()), ("label", pa.int64())]
    + [(name, pa.float64()) for name in _NATS]
    + [("profile", pa.list_(pa.float64()))]
)


def time_steps(config: EvaluateConfig, card: ModelCard) -> int | None:
    """T of the evaluated bound; None is continuous time."""
    return config.steps if config.steps is not None else card.model.steps


class LikelihoodEvaluator:
    """A model and a split in memory, turning ranges into per-image terms."""

    def __init__(self, config: EvaluateConfig, model: str) -> None:
        """Load the model from the URL or absolute path `model`, and open the split."""
        self.config = config
        self.device = torch.device("cuda" if config.pool.gpus_per_actor > 0 else "cpu")
        vdm, self.card = load_model(open_storage(model), config.average_of())
        vdm.steps = time_steps(config, self.card)
        self.vdm = vdm.to(self.device)
        self.dataset = selected(open_dataset(config.path(config.data)), config.select)

    def __call__(self, items: Range) -> pa.Table:
        """The figures of the images at these places of the split, as `ImageTerms` has them."""
        rows = [asdict(image) for image in self.images(items)]
        return pa.Table.from_pylist(rows, schema=_SCHEMA)

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
        terms = torch.stack(
            [
                torch.stack(self.vdm(images, labels, **self._draws(batch, draw)))
                for draw in range(self.config.draws)
            ]
        )
        columns = dict(zip(self.vdm.term_names, terms.double().mean(0).tolist(), strict=True))
        indices, steps = batch.indices.to(self.device), bound_steps(self.config, self.card)
        for name in self.config.bounds.compute:
            figure = figure_of_images(name, self.vdm, images, indices, labels, self.config, steps)
            columns[name] = figure.double().tolist()
        return [
            ImageTerms(
                index=int(batch.indices[row]),
                key=batch.keys[row],
                label=None if batch.labels is None else int(batch.labels[row]),
                **{name: values[row] for name, values in columns.items()},
            )
            for row in range(len(images))
        ]

    def _draws(self, batch: Batch, draw: int) -> dict[str, Tensor]:
        seed, indices = self.config.seed, batch.indices.to(self.device)
        images, shape = self.dataset.info.samples, tuple(batch.images.shape[1:])
        draws = {
            "times": stratified_times(seed, indices + draw * images, images * self.config.draws),
            "noise": normal(seed, Purpose.NOISE, indices, shape, step=draw),
            "noise_0": normal(seed, Purpose.NOISE_0, indices, shape, step=draw),
        }
        if self.vdm.latent_dim is not None:
            size = (self.vdm.latent_dim,)
            draws["noise_latent"] = normal(seed, Purpose.LATENT, indices, size, step=draw)
        return draws
