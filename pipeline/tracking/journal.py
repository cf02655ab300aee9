"""The journal of a run: one JSON line per report, on disk before anything goes to a server.

Three things lie side by side: `<name>` with the lines, `<name>.files/` with artifacts, and
`<name>.sent`, which says up to which byte the lines have reached which run. The journal is also
the queue: the sender reads it from that byte on, in this process or the next.
"""

import itertools
import json
import logging
import os
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

_log = logging.getLogger(__name__)


class Journal:
    """Append-only lines plus the files they refer to. Safe to use from several threads.

    Raises OSError where the folder cannot be written.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self.files = self.path.with_name(self.path.name + ".files")
        self._sent = self.path.with_name(self.path.name + ".sent")
        self._lock = threading.Lock()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.touch()
        self._torn = self._ends_inside_a_line()

    def append(self, record: Mapping[str, Any]) -> None:
        """Writes one line. After a line that was cut short, the next one starts afresh.

        Raises OSError if the disk does not take it all, ValueError for NaN or infinity.
        """
        line = json.dumps(record, allow_nan=False).encode() + b"\n"
        with self._lock, self.path.open("ab", buffering=0) as file:
            data = b"\n" + line if self._torn else line
            self._torn = True
            if file.write(data) != len(data):
                raise OSError(f"{self.path}: the disk took only part of a line; free some space")
            self._torn = False

    def keep_file(self, name: str, data: bytes) -> None:
        """Puts an artifact at `files / name`, whole or not at all. Raises OSError."""
        write_whole(self.files / name, data)

    def read(self, offset: int, most: int = sys.maxsize) -> tuple[list[dict[str, Any]], int]:
        """At most `most` whole lines from byte `offset` on, and the offset after them.

        A damaged line is left out, with a warning.
        """
        records = []
        with self.path.open("rb") as file:
            file.seek(offset)
            for line in itertools.islice(file, most):
                if not line.endswith(b"\n"):
                    break
                records += _parse(line, f"{self.path} at byte {offset}")
                offset += len(line)
        return records, offset

    def sent(self, run_id: str) -> dict[str, int]:
        """For each kind of report, the byte before which run `run_id` has them all.

        Empty for a run that has none, and for marks that do not fit this journal.
        """
        try:
            mark = json.loads(self._sent.read_text())
        except (FileNotFoundError, ValueError):
            return {}
        size = self.path.stat().st_size
        fits = mark["run_id"] == run_id and max(mark["offsets"].values()) <= size
        return dict(mark["offsets"]) if fits else {}

    def mark_sent(self, run_id: str, offsets: Mapping[str, int]) -> None:
        """Records for run `run_id` what `sent` returns. Raises OSError."""
        write_whole(self._sent, json.dumps({"run_id": run_id, "offsets": offsets}).encode())

    def _ends_inside_a_line(self) -> bool:
        if self.path.stat().st_size == 0:
            return False
        with self.path.open("rb") as file:
            file.seek(-1, os.SEEK_END)
            return file.read(1) != b"\n"


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Every whole line of a journal, in order; none where there is no journal."""
    if Path(path).exists():
        with Path(path).open("rb") as file:
            for line in file:
                if line.endswith(b"\n"):
                    yield from _parse(line, str(path))


def _parse(line: bytes, place: str) -> list[dict[str, Any]]:
    if line == b"\n":
        return []
    try:
        return [json.loads(line)]
    except ValueError:
        _log.warning("%s: a damaged line was left out: %r", place, line[:80])
        return []


def write_whole(path: Path, data: bytes) -> None:
    """Puts a file there, whole or not at all. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_bytes(data)
    os.replace(part, path)
