"""Runs whose last words may have to wait for MLflow: each a folder that goes when all is sent.

It lies in `<output>.tracking` beside a job's output, or for an output in a bucket in this
machine's temporary folder: the journal, and `run.json` with whose it is and how the run ended.
"""

import hashlib
import json
import logging
import shutil
import tempfile
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

from pipeline.errors import InputError
from pipeline.redact import redact_text
from pipeline.storage import Location
from pipeline.tracking.journal import write_whole
from pipeline.tracking.store import Status, close_run
from pipeline.tracking.tracker import Tracker

RECORD, JOURNAL = "run.json", "journal.jsonl"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class WaitingRun:
    """One such run; `run_id` may be a deferred one."""

    folder: Path
    tracking_uri: str
    run_id: str
    status: Status = "FAILED"  # until `end` says better: what a killed job has left

    @classmethod
    def begin(cls, output: Location, tracking_uri: str, run_id: str) -> "WaitingRun":
        """A new folder for a run that is open. Raises InputError where it cannot be written."""
        run = cls(waiting_folder(output) / uuid.uuid4().hex, tracking_uri, run_id)
        try:
            run.folder.mkdir(parents=True)
            run._write("FAILED")
        except OSError as error:
            raise InputError(
                f"cannot write {run.folder}, where what goes to MLflow waits beside the output: "
                f"{error}; check free space and permissions, or choose another output"
            ) from error
        return run

    def tracker(self) -> Tracker:
        """A tracker with the journal in the folder."""
        return Tracker(self.tracking_uri, self.run_id, self.folder / JOURNAL)

    def end(self, tracker: Tracker, status: Status) -> None:
        """Close tracker and run; the folder stays where MLflow did not take everything."""
        self._write(status)
        sent = tracker.close()
        if close_run(self.tracking_uri, self.run_id, status) and sent:
            shutil.rmtree(self.folder)
            if not any(self.folder.parent.iterdir()):
                self.folder.parent.rmdir()

    def _write(self, status: Status) -> None:
        record = asdict(self) | {"status": status}
        del record["folder"]
        write_whole(self.folder / RECORD, json.dumps(record).encode())


def send_waiting(output: Location) -> None:
    """Send what earlier jobs with this output could not; what cannot be sent now waits on."""
    for record in sorted(waiting_folder(output).glob(f"*/{RECORD}")):
        try:
            run = WaitingRun(folder=record.parent, **json.loads(record.read_text()))
        except (ValueError, TypeError) as error:
            raise InputError(
                f"{record} is damaged ({error}); delete {record.parent}, and what waits there for "
                "MLflow is given up"
            ) from None
        log.info("sending what waits in %s to %s", run.folder, redact_text(run.tracking_uri))
        run.end(run.tracker(), run.status)


def waiting_folder(output: Location) -> Path:
    """Where runs with this output wait."""
    if output.is_local:
        return Path(f"{output.path}.tracking")
    name = hashlib.sha256(output.url.encode()).hexdigest()[:16]
    return Path(tempfile.gettempdir(), "vdm-journals", name)
