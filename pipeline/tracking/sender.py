"""The thread that carries the journal to MLflow and waits out its absences."""

import logging
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from pipeline.redact import one_line, redact_text
from pipeline.tracking.journal import Journal
from pipeline.tracking.writer import Point, RunWriter

_LINES = 500  # journal lines between two marks of what is sent
_LONGEST_PAUSE = 60.0  # seconds between attempts while the server is away
_Records = Iterable[Mapping[str, Any]]
_Send = Callable[[RunWriter, _Records], None]
_log = logging.getLogger(__name__)


class Sender(threading.Thread):
    """Sends the journal's lines in order, from where the last sender of the run stopped.

    Lines are marked as sent after MLflow took them, so each arrives at least once; `RunWriter`
    sees to it that none shows twice. Metrics and artifacts are marked apart: an artifact store
    that is away does not hold up the metrics.
    """

    def __init__(
        self, uri: str, run_id: str, journal: Journal, period: float, group: str | None = None
    ) -> None:
        super().__init__(name="mlflow-sender", daemon=True)
        self._uri, self._run_id, self._journal, self._period = uri, run_id, journal, period
        self._group, self._place = group, redact_text(uri)
        self._news, self._closing = threading.Event(), threading.Event()
        self._writer: RunWriter | None = None
        self._offsets = {"values": 0, "artifact": 0}
        self._failures = 0
        self._reason = "there was no time"

    def wake(self) -> None:
        """Tells the thread that the journal has grown."""
        self._news.set()

    def close(self, timeout: float) -> bool:
        """Makes one last attempt of at most `timeout` seconds and ends the thread.

        Returns whether MLflow has everything.
        """
        self._closing.set()
        self._news.set()
        self.join(timeout)
        if unsent := self._count_unsent():
            _log.warning(
                "%d reports are not in MLflow at %s (%s). They are in %s and will be sent when "
                "the run is started again",
                unsent,
                self._place,
                self._reason,
                self._journal.path,
            )
        return unsent == 0

    def run(self) -> None:
        """Attempts, then waits for news; after a failure waits longer each time."""
        pause = self._attempt()
        while not self._closing.wait(pause):
            self._news.wait()
            self._news.clear()
            pause = self._attempt()
        self._attempt()

    def _attempt(self) -> float:
        """One attempt to send everything; returns the seconds to wait before the next."""
        try:
            self._send_all()
        except Exception as error:  # noqa: BLE001  whatever a client library raises: go on
            self._reason = one_line(error)
            if self._failures == 0:
                _log.warning(
                    "MLflow at %s takes no reports (%s): they wait in %s",
                    self._place,
                    self._reason,
                    self._journal.path,
                )
            self._failures += 1
            self._news.set()
            return min(self._period * 2.0**self._failures, _LONGEST_PAUSE)
        if self._failures:
            _log.warning("MLflow at %s is back and has every report", self._place)
            self._failures = 0
        return self._period

    def _send_all(self) -> None:
        if self._writer is None:
            writer = RunWriter(self._uri, self._run_id, self._group)
            self._offsets |= self._journal.sent(writer.run_id)
            self._writer = writer
        self._send_kind(self._writer, "values", self._send_points)
        self._send_kind(self._writer, "artifact", self._send_files)

    def _send_kind(self, writer: RunWriter, kind: str, send: _Send) -> None:
        while True:
            records, end = self._journal.read(self._offsets[kind], _LINES)
            if end == self._offsets[kind]:
                return
            send(writer, [record for record in records if kind in record])
            offsets = self._offsets | {kind: end}
            self._journal.mark_sent(writer.run_id, offsets)
            self._offsets = offsets

    def _send_points(self, writer: RunWriter, records: _Records) -> None:
        writer.send(
            Point(key, value, record["step"], record["time"])
            for record in records
            for key, value in record["values"].items()
        )

    def _send_files(self, writer: RunWriter, records: _Records) -> None:
        for record in records:
            path = self._journal.files / record["artifact"]
            if not path.resolve().is_relative_to(self._journal.files.resolve()):
                _log.warning("artifact %s is outside its folder and is not sent", path)
            elif path.exists():
                writer.send_file(path, record["artifact"].rpartition("/")[0])
            else:
                _log.warning("artifact %s is gone and is not sent", path)

    def _count_unsent(self) -> int:
        return sum(
            kind in record
            for kind, offset in self._offsets.items()
            for record in self._journal.read(offset)[0]
        )
