"""The images' figures to those of the split: means, their standard errors, and the table kept."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pyarrow as pa
import torch
from torch import Tensor

from pipeline.evaluation.evaluate import ImageTerms
from pipeline.metrics import Scalar
from vdm_core.likelihood import Estimate, Profile, estimate, profile
from vdm_core.records import AdaptiveElboTerms

FIGURES = ("discrete", "continuous", "ode", "importance")  # totals, one an image


@dataclass(frozen=True)
class BoundSummary:
    """A split's mean bound in bits/dim and its terms, with their standard errors over images."""

    images: int
    bits_per_dim: float
    standard_error: float
    reconstruction: float
    prior: float
    diffusion: float
    auxiliary: float | None = None
    term_errors: dict[str, float] = field(default_factory=dict)  # standard error of each term

    @property
    def terms(self) -> dict[str, float]:
        """The terms that the model has, by name."""
        values = {name: getattr(self, name) for name in AdaptiveElboTerms._fields}
        return {name: value for name, value in values.items() if value is not None}


def image_table(
    results: Sequence[ImageTerms], dims: int, request: Mapping[str, Scalar]
) -> pa.Table:
    """One row an image: what there is of it but its profile, in nats and in bits/dim.

    The `total` of the default bound is added. The table's metadata hold what the figures depend on.

    Raises:
        FloatingPointError: a figure is not finite.
    """
    terms = term_names(results)
    figures = [name for name in FIGURES if getattr(results[0], name) is not None]
    bits = bits_per_dim(results, dims, terms + figures)
    total = bits[:, : len(terms)].sum(1, keepdim=True)
    names = [*terms, "total", *figures]
    columns = torch.cat([bits[:, : len(terms)], total, bits[:, len(terms) :]], dim=1)
    table = {
        "index": [result.index for result in results],
        "key": [result.key for result in results],
        "label": pa.array([result.label for result in results], pa.int64()),
    }
    table |= dict(zip(names, (columns * dims * math.log(2)).T.numpy(), strict=True))
    table |= {f"{n}_bits_per_dim": c for n, c in zip(names, columns.T.numpy(), strict=True)}
    described = json.dumps(dict(request), sort_keys=True)
    return pa.table(table).replace_schema_metadata({"request": described, "dims": str(dims)})


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
    """Means over images with their standard errors, as of independent images.

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
        term_errors=dict(zip(names, estimate(bits).standard_error.tolist(), strict=True)),
        **dict(zip(names, bits.mean(0).tolist(), strict=True)),
    )


def summarise_figure(results: Sequence[ImageTerms], dims: int, name: str) -> Estimate:
    """Mean and standard error over images of one further figure, in bits/dim.

    Raises:
        FloatingPointError: an image has no finite figure; ValueError: fewer than two images.
    """
    return estimate(bits_per_dim(results, dims, [name])[:, 0])


def profile_errors(results: Sequence[ImageTerms]) -> Tensor:
    """(N,P) float64: |ε - ε̂|² of each image at each γ of the profile."""
    return torch.tensor([result.profile for result in results], dtype=torch.float64)


def summarise_profile(results: Sequence[ImageTerms], gammas: Tensor, dims: int) -> Profile:
    """The profile over `gammas` (P,), with standard errors over the images."""
    return profile(gammas, profile_errors(results), dims)
