"""Files that people read results from: a table, a picture, and the numbers behind them."""

import io
from typing import NamedTuple

from matplotlib.figure import Figure

from pipeline.storage import Location


class ReportFiles(NamedTuple):
    """The names of what a job leaves in its folder."""

    table: str  # Markdown
    picture: str  # PNG
    numbers: str  # all digits, for other programs

    def write(self, folder: Location, table: str, picture: Figure, numbers: bytes) -> None:
        """Write them into `folder`, the numbers last: where they are, the others are too.

        Raises:
            InputError: the storage refuses.
        """
        (folder / self.table).write_bytes(table.encode())
        (folder / self.picture).write_bytes(png_bytes(picture))
        (folder / self.numbers).write_bytes(numbers)


def png_bytes(figure: Figure, dpi: int = 120) -> bytes:
    """The figure as PNG, which does not name matplotlib: the same picture has the same bytes."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi, metadata={"Software": None})
    return buffer.getvalue()
