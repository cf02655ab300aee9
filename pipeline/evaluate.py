"""One range of images to their likelihood bounds: the unit of work of the evaluation job.

Image i takes its d-th time from one grid over all images and draws, and its noise from its own
place in the split, so the result does not depend on how the split is cut or by how many workers.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from pipeline.config.sample import EvaluateConfig
from pipeline.data.dataset import open_dataset
from pipeline.data.stream import iterate_once
from pipeline.model.export import ModelCard, load_model
from pipeline.metrics import ELBO_TERMS
from pipeline.storage import open_storage
from vdm_core.records import Batch
from vdm_core.rng import Purpose, normal, stratified_times


@dataclass(frozen=True)
class ImageRange:
    """Places [start, stop) of the split, in manifest order."""

    start: int
    stop: int


@dataclass(frozen=True)
class ImageTerms:
    """The bound of one image: means over the draws, in nats."""

    index: int
    key: str
    label: int | None
    reconstruction: float
    prior: float
    diffusion: float


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
        self.dataset = open_dataset(config.path(config.data))

    def __call__(self, task: dict[str, Any]) -> list[dict[str, Any]]:
        """The `ImageTerms` of every image of an `ImageRange`; a bad record is an error."""
        places = ImageRange(**task)
        results: list[ImageTerms] = []
        for batch in iterate_once(
            self.dataset, start=places.start, stop=places.stop, batch_size=self.config.batch_size
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
        columns = dict(zip(ELBO_TERMS, terms.double().mean(0).tolist(), strict=True))
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
        return {
            "times": stratified_times(seed, indices + draw * images, images * self.config.draws),
            "noise": normal(seed, Purpose.NOISE, indices, shape, step=draw),
            "noise_0": normal(seed, Purpose.NOISE_0, indices, shape, step=draw),
        }


@dataclass(frozen=True)
class BoundSummary:
    """A split's mean bound in bits/dim, with the standard error of the total over images."""

    images: int
    bits_per_dim: float
    standard_error: float
    reconstruction: float
    prior: float
    diffusion: float


def bits_per_dim(results: Sequence[ImageTerms], dims: int) -> Tensor:
    """(N, 3) float64: the three terms of each image; `dims` is C*H*W."""
    nats = [[getattr(result, term) for term in ELBO_TERMS] for result in results]
    return torch.tensor(nats, dtype=torch.float64) / (dims * math.log(2))


def summarise(results: Sequence[ImageTerms], dims: int) -> BoundSummary:
    """Means over images, and std / sqrt(N) of their totals, as of independent images.

    Raises:
        FloatingPointError: an image has no finite bound; ValueError: fewer than two images.
    """
    if len(results) < 2:
        raise ValueError(f"{len(results)} images: a standard error takes at least 2")
    bits = bits_per_dim(results, dims)
    total = bits.sum(1)
    if bad := [r.key for r, finite in zip(results, total.isfinite(), strict=True) if not finite]:
        raise FloatingPointError(
            f"{len(bad)} of {len(results)} images have no finite bound, {bad[0]} the first"
        )
    return BoundSummary(
        images=len(results),
        bits_per_dim=total.mean().item(),
        standard_error=(total.std() / math.sqrt(len(results))).item(),
        **dict(zip(ELBO_TERMS, bits.mean(0).tolist(), strict=True)),
    )
