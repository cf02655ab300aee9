"""A sweep: one sample set for each combination of sampler, steps and guidance scale, compared.

Each combination is a set of its own, in a folder named after it, with the same ids, classes and
seeds: the same noise. So it is continued on its own, and combinations may be added later.
"""

from dataclasses import asdict, dataclass
from itertools import product

import numpy as np

from pipeline.config.sample import SampleConfig
from pipeline.metrics import flatten
from pipeline.sampling.draw import Claimed
from pipeline.sampling.output_folder import Identity
from pipeline.sampling.plan import FREE_FIELDS, LoadedModel
from pipeline.sampling.sample_set import SampleSet, open_sample_set, rows_by_class

_SWEPT = {"sampler", "steps", "guidance_scale"}
_MEASURED = 200  # images of a class from which its spread is taken


@dataclass(frozen=True)
class CellResult:
    """A line of the comparison."""

    sampler: str
    steps: int
    guidance_scale: float
    nfe: int
    samples: int
    samples_per_second: float  # of one actor
    class_std: float  # see `class_spread`
    output: str


def sweep_cells(config: SampleConfig) -> list[SampleConfig]:
    """The request of each combination; of `config` itself without a sweep."""
    sweep = config.sweep
    if sweep is None:
        return [config]
    combinations = product(
        sweep.samplers or (config.sampler,),
        sweep.steps or (config.steps,),
        sweep.guidance_scales or (config.guidance_scale,),
    )
    return [
        config.model_copy(
            update={
                "sampler": sampler,
                "steps": steps,
                "guidance_scale": scale,
                "output": f"{config.path(config.output)}/{sampler}-{steps}-w{scale:g}",
                "sweep": None,
            }
        )
        for sampler, steps, scale in combinations
    ]


def sweep_identity(config: SampleConfig, model: LoadedModel) -> Identity:
    """What all cells have in common: of the folder above them, which takes new combinations."""
    asked = config.model_dump(mode="json", exclude=set(FREE_FIELDS | _SWEPT))
    return model.card.identity | flatten(asked) | {"sweep": True}


def cell_result(one: Claimed) -> CellResult:
    """What the comparison says of a finished set."""
    config = one.plan.config
    samples = open_sample_set(one.plan.output.url)
    nfe = samples.info.provenance["nfe"]
    assert isinstance(nfe, int)
    return CellResult(
        sampler=config.sampler,
        steps=config.steps,
        guidance_scale=config.guidance_scale,
        nfe=nfe,
        samples=len(samples),
        samples_per_second=len(samples) / sum(shard.seconds for shard in one.done.values()),
        class_std=class_spread(samples),
        output=one.plan.output.url,
    )


def class_spread(samples: SampleSet) -> float:
    """How different images of one class are: the standard deviation of a pixel between them.

    In levels, the mean over pixels and classes, from the first 200 images of each class. Guidance
    makes it smaller.
    """
    spreads = [
        np.std(samples.images(rows).astype(np.float64), axis=0).mean()
        for rows in rows_by_class(samples, _MEASURED).values()
    ]
    return float(np.mean(spreads))


def table_columns(results: list[CellResult]) -> dict[str, list[object]]:
    """The comparison by column."""
    records = [asdict(result) for result in results]
    return {name: [record[name] for record in records] for name in records[0]}
