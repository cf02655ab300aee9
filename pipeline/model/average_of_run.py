"""An average of a run's weights, as a checkpoint keeps it, or put together from what the run keeps.

<run>/checkpoint_000001000/                 every average, among all other state
<run>/ema_snapshots/checkpoint_000000100/   the power-function averages alone; never deleted
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from torch import Tensor

from pipeline.checkpoint.fragment import AVERAGE, WEIGHTS
from pipeline.checkpoint.read import CheckpointReader, open_checkpoint
from pipeline.checkpoint.record import SNAPSHOTS, committed
from pipeline.config.average import AverageConfig
from pipeline.errors import InputError
from pipeline.model.average_record import AverageRecord
from pipeline.model.post_hoc import KeptAverages, recipe
from pipeline.storage import Location, open_storage
from vdm_core.ema_power import PowerAverage

_WIDTH = "width_"


class FoundAverage(NamedTuple):
    """An average that can be had, and how: `read` returns the whole state dict."""

    record: AverageRecord
    read: Callable[[], dict[str, Tensor]]


def find_average(checkpoint: Location, step: int, wanted: AverageConfig) -> FoundAverage:
    """The average `wanted` of the weights after `step`, that of the checkpoint. Reads no weights.

    Decay 0 is the weights themselves. A width that the run does not keep is put together.

    Raises:
        InputError: the run does not keep that, nor enough to make it; names what it keeps.
    """
    reader = open_checkpoint(checkpoint)
    record = AverageRecord(decay=wanted.decay, width=wanted.width)
    if wanted.decay == 0.0:
        return FoundAverage(record, partial(reader.whole, WEIGHTS))
    if wanted.name in reader.averages:
        return FoundAverage(record, partial(reader.whole, AVERAGE + wanted.name))
    if wanted.width is None:
        raise InputError(
            f"ema.decay={wanted.decay}: {checkpoint} keeps {', '.join(reader.averages)}; give one "
            "of these, decay 0 (no average), or a width if it keeps widths"
        )
    found = recipe(_kept(checkpoint, step, reader), PowerAverage(step, wanted.width))
    return FoundAverage(found.record, found.make)


def _kept(checkpoint: Location, step: int, reader: CheckpointReader) -> list[KeptAverages]:
    """What the run has of power-function averages up to `step`, oldest first."""
    snapshots = open_storage(checkpoint.url.rpartition("/")[0]) / SNAPSHOTS
    past = [
        (record.step, CheckpointReader(snapshots / name, record))
        for name, record in reversed(committed(snapshots))
        if record.step < step
    ]
    return [_widths(*source) for source in [*past, (step, reader)]]


def _widths(step: int, reader: CheckpointReader) -> KeptAverages:
    names = [name for name in reader.averages if name.startswith(_WIDTH)]
    return KeptAverages(
        step,
        tuple(float(name.removeprefix(_WIDTH)) for name in names),
        lambda width: reader.whole(f"{AVERAGE}{_WIDTH}{width}"),
    )
