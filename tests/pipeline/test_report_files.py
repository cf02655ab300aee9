"""Table, picture and numbers of a report: whole, in this order, the same bytes each time."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from pipeline.errors import InputError
from pipeline.report_files import ReportFiles, png_bytes
from pipeline.storage import open_storage

FILES = ReportFiles("r.md", "r.png", "r.json")


def drawn() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1], [1, 0])
    return figure


def test_the_same_picture_has_the_same_bytes_and_the_size_asked_for() -> None:
    """Width and height stand in bytes 16 to 24 of a PNG."""
    data = png_bytes(drawn(), dpi=60)
    assert data == png_bytes(drawn(), dpi=60)
    assert (int.from_bytes(data[16:20]), int.from_bytes(data[20:24])) == (120, 60)
    assert b"Matplotlib" not in data


def test_numbers_are_there_only_where_table_and_picture_are(tmp_path: Path) -> None:
    """A reader of the numbers may rely on the rest."""
    (tmp_path / FILES.picture).mkdir()  # in the picture's place
    folder = open_storage(str(tmp_path))
    with pytest.raises(InputError, match=r"r\.png"):
        FILES.write(folder, "| t |\n", drawn(), b"{}")
    assert (tmp_path / FILES.table).read_text() == "| t |\n"
    assert not (tmp_path / FILES.numbers).exists()
    (tmp_path / FILES.picture).rmdir()
    FILES.write(folder, "| t |\n", drawn(), b"{}")
    assert (tmp_path / FILES.picture).read_bytes() == png_bytes(drawn())
    assert (tmp_path / FILES.numbers).read_bytes() == b"{}"
