"""The images' figures to those of the split: means, their standard errors, and the table kept."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import torch
from torch import Tensor

from pipeline.evaluation.evaluate import FIGURES, ImageTerms
from pipeline.metrics import Scalar
from vdm_core.likelihood import Estimate, Profile, estimate, profile


@dataclass(frozen=True)
class BoundSummary:
    """A split's mean bound in bits/dim and its terms, with their standard errors over images."""

    images: int
    bits_per_dim: float
    standard_error: float
    terms: dict[str, float]
    term_errors: dict[str, float]  # standard error of each term


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
    return list(results[0].terms)


def bits_per_dim(results: Sequence[ImageTerms], dims: int, names: Sequence[str]) -> Tensor:
    """(N, len(names)) float64: the named figures of each image; `dims` is C*H*W.

    Raises:
        FloatingPointError: a figure is not finite.
    """
    nats = [[result.nats(name) for name in names] for result in results]
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
        terms=dict(zip(names, bits.mean(0).tolist(), strict=True)),
        term_errors=dict(zip(names, estimate(bits).standard_error.tolist(), strict=True)),
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
