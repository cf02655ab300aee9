"""One range of images to their likelihood figures: the unit of work of the evaluation job.

Image i takes its d-th time from one grid over all images and draws, and its noise from its own
place in the split, so the result does not depend on how the split is cut or by how many workers.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pipeline.config.sample import EvaluateConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.select import selected
from pipeline.data.stream import iterate_once
from pipeline.evaluation.bounds import bound_steps, figure_of_images
from pipeline.model.export import ModelCard, load_model
from pipeline.storage import open_storage
from vdm_core.likelihood import Estimate, Profile, estimate, profile
from vdm_core.records import AdaptiveElboTerms, Batch
from vdm_core.rng import Purpose, normal, stratified_times


@dataclass(frozen=True)
class ImageRange:
    """Places [start, stop) of the split, in manifest order."""

    start: int
    stop: int


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


def time_steps(config: EvaluateConfig, card: ModelCard) -> int | None:
    """T of the evaluated bound; None is continuous time."""
    return config.steps if config.steps is not None else card.model.steps


class LikelihoodEvaluator:
    """A model and a split in memory, turning ranges into per-image terms."""

    def __init__(self, config: EvaluateConfig, model: str) -> None:
        """Load the model from the URL or absolute path `model`, and open the split."""
        self.config = config
        self.device = torch.device("cuda" if config.pool.gpus_per_actor > 0 else "cpu")
        vdm, self.card = load_model(open_storage(model))
        vdm.steps = time_steps(config, self.card)
        self.vdm = vdm.to(self.device)
        self.dataset = selected(open_dataset(config.path(config.data)), config.select)

    def __call__(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """The `ImageTerms` of every image of an `ImageRange`; a bad record is an error."""
        places = ImageRange(**task)
        results: list[ImageTerms] = []
        for batch in iterate_once(
            self.dataset,
            start=places.start,
            stop=places.stop,
            batch_size=self.config.batch_size,
            transform=self.config.transform,
        ):
            results += self._batch(batch)
        return [asdict(result) for result in results]

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


@dataclass(frozen=True)
class BoundSummary:
    """A split's mean bound in bits/dim, with the standard error of the total over images."""

    images: int
    bits_per_dim: float
    standard_error: float
    reconstruction: float
    prior: float
    diffusion: float
    auxiliary: float | None = None

    @property
    def terms(self) -> dict[str, float]:
        """The terms that the model has, by name."""
        values = {name: getattr(self, name) for name in AdaptiveElboTerms._fields}
        return {name: value for name, value in values.items() if value is not None}


def image_columns(results: Sequence[ImageTerms]) -> dict[str, list[Any]]:
    """What there is of each image but its profile, by name."""
    names = [f.name for f in fields(ImageTerms) if f.name != "profile"]
    table = {name: [getattr(result, name) for result in results] for name in names}
    return {
        name: values for name, values in table.items() if name == "label" or values[0] is not None
    }


def term_names(results: Sequence[ImageTerms]) -> list[str]:
    """The terms of the default bound that the model has."""
    return [term for term in AdaptiveElboTerms._fields if getattr(results[0], term) is not None]


def bits_per_dim(results: Sequence[ImageTerms], dims: int, names: Sequence[str]) -> Tensor:
    """(N, len(names)) float64: the named figures of each image; `dims` is C*H*W.

    Raises:
        FloatingPointError: a figure is not finite.
    """
    nats = [[getattr(result, name) for name in names] for result in results]
    bits = torch.tensor(nats, dtype=torch.float64) / (dims * math.log(2))
    finite = bits.isfinite().all(1)
    if bad := [r.key for r, good in zip(results, finite, strict=True) if not good]:
        raise FloatingPointError(
            f"{len(bad)} of {len(results)} images have no finite {' + '.join(names)}, "
            f"{bad[0]} the first"
        )
    return bits


def summarise(results: Sequence[ImageTerms], dims: int) -> BoundSummary:
    """Means over images, and the standard error of their totals, as of independent images.

    Raises:
        FloatingPointError: an image has no finite bound; ValueError: fewer than two images.
    """
    names = term_names(results)
    bits = bits_per_dim(results, dims, names)
    total = estimate(bits.sum(1))
    return BoundSummary(
        images=len(results),
        bits_per_dim=total.mean.item(),
        standard_error=total.standard_error.item(),
        **dict(zip(names, bits.mean(0).tolist(), strict=True)),
    )


def summarise_figure(results: Sequence[ImageTerms], dims: int, name: str) -> Estimate:
    """Mean and standard error over images of one further figure, in bits/dim.

    Raises:
        FloatingPointError: an image has no finite figure; ValueError: fewer than two images.
    """
    return estimate(bits_per_dim(results, dims, [name])[:, 0])


def summarise_profile(results: Sequence[ImageTerms], gammas: Tensor, dims: int) -> Profile:
    """The profile over `gammas` (N,), with standard errors over the images."""
    errors = torch.tensor([result.profile for result in results], dtype=torch.float64)
    return profile(gammas, errors, dims)
