"""A trained model as a folder that stands alone: what `jobs.export` leaves.

model.safetensors   float32 weights of one moving average, a schedule's included
schedule.json       γ(0), γ(1), the curve and its digest, where there is a noise schedule
README.md           what the model is, for people
model.json          the card; written last: a folder without it holds no model
"""

import logging

from torch import Tensor

from pipeline.errors import InputError
from pipeline.model.export import CARD, WEIGHTS, ModelCard, export_bytes, load_card, restored
from pipeline.model.model_readme import model_readme
from pipeline.model.schedule_record import schedule_record
from pipeline.storage import Location, is_temporary

SCHEDULE, README = "schedule.json", "README.md"
log = logging.getLogger(__name__)


def is_exported(output: Location, card: ModelCard) -> bool:
    """Whether the model of `card`, whatever its digests, is in `output` already.

    Raises:
        InputError: another model or other files are there.
    """
    if (output / CARD).size() is not None:
        there = load_card(output)
        if _unsealed(there) == _unsealed(card):
            return True
        raise InputError(
            f"{output} holds another model, {there.run} after step {there.step}, "
            f"{there.average.text}; give another output"
        )
    ours = {WEIGHTS, SCHEDULE, README}  # of an export that was killed
    other = [name for name in output.files() if name not in ours and not is_temporary(name)]
    if other or output.folders():
        raise InputError(
            f"{output} holds other things ({[*other, *output.folders()][0]}); give another output"
        )
    return False


def _unsealed(card: ModelCard) -> ModelCard:
    return card.model_copy(update={"weights_sha256": "", "schedule_sha256": ""})


def write_export(output: Location, weights: dict[str, Tensor], card: ModelCard) -> ModelCard:
    """Write the folder; return the card with its digests.

    Raises:
        InputError: the weights do not fit the card, or the storage refuses.
    """
    files = export_bytes(weights, card)
    sealed = ModelCard.model_validate_json(files[CARD])
    model = restored(weights, sealed, output)
    schedule = None
    if sealed.model.schedule is not None and model.schedule is not None:
        schedule = schedule_record(sealed.model.schedule.kind, model.schedule)
    parameters = sum(parameter.numel() for parameter in model.parameters())
    (output / WEIGHTS).write_bytes(files[WEIGHTS])
    if schedule is not None:
        (output / SCHEDULE).write_bytes(schedule.model_dump_json(indent=2).encode())
    (output / README).write_bytes(model_readme(sealed, schedule, parameters).encode())
    (output / CARD).write_bytes(files[CARD])
    return sealed
