"""What is said of a run that does not fit."""

from pipeline.planning.fits import GIB, MemoryTable, memory_text, remedy
from pipeline.planning.memory import DeviceMemory

TABLE: MemoryTable = {
    (stage, images): DeviceMemory(held * GIB, 0, 0, 0, images * GIB, 0)
    for stage, held in ((0, 8.0), (1, 4.0), (2, 4.0), (3, 2.0))
    for images in (2, 8)
}


def test_what_would_fit_is_named() -> None:
    """Each micro-batch with the stages at which it fits."""
    assert remedy(TABLE, 10 * GIB) == (
        "These fit: data.micro_batch=2 at ZeRO stage 0, 1, 2, 3; data.micro_batch=8 at ZeRO stage 3"
    )
    assert remedy(TABLE, 4 * GIB) == "These fit: data.micro_batch=2 at ZeRO stage 3"


def test_where_nothing_fits_other_remedies_are_named() -> None:
    """The least micro-batch that was tried, and what else there is."""
    said = remedy(TABLE, 3 * GIB)
    assert said.startswith("No ZeRO stage fits with data.micro_batch=2: lower it")


def test_each_part_is_named_in_gib() -> None:
    """In the order of the memory's fields."""
    text = memory_text(TABLE[0, 2])
    assert text == "weights 8, optimizer 0, averages 0, buffers 0, passes 2, update 0"
