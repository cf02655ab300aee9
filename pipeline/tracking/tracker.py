"""What a run says about itself: to the journal at once, to MLflow from a thread of its own."""

import functools
import io
import json
import logging
import math
import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from pipeline.redact import redact, redact_text
from pipeline.report_files import png_bytes
from pipeline.tracking.journal import Journal
from pipeline.tracking.sender import Sender

_NAME = re.compile(r"[\w\-. :]+(/[\w\-. :]+)*", re.ASCII)
_log = logging.getLogger(__name__)


class Tracker:
    """Records a run's metrics and artifacts; one process of a run holds one.

    Every call writes to `journal` and returns; a thread carries the lines to MLflow, as soon as
    it answers, in this process or in the next that opens the same journal. Failures of server
    and disk are logged and never raised. `run_id` comes from `open_run`. No two processes may
    hold the same journal at a time. Raises OSError if the journal's folder cannot be made.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        journal: str | Path,
        *,
        period: float = 1.0,
        group: str | None = None,
    ) -> None:
        """Starts the thread, which sends at most once per `period` seconds.

        `group`: what the names of all metrics begin with, if another process tracks the same run.
        """
        self._journal = Journal(journal)
        self._broken = False
        self._sender = Sender(uri, run_id, self._journal, period, group)
        self._sender.start()

    @property
    def journal(self) -> Path:
        """The journal's file."""
        return self._journal.path

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Records `values` at `step`. NaN and infinities become `<name>_nonfinite` = 1.

        Raises ValueError for a name that MLflow cannot store.
        """
        finite = {}
        for name, value in values.items():
            number = float(value)
            is_finite = math.isfinite(number)
            finite[_checked(name if is_finite else f"{name}_nonfinite")] = (
                number if is_finite else 1.0
            )
        self._record({"step": int(step), "values": finite})

    def figure(self, step: int, name: str, figure: Figure) -> None:
        """Records a matplotlib figure as `figures/<name>/<step>.png`."""
        self._artifact(f"figures/{name}/{step:08d}.png", png_bytes(figure))

    def image(self, step: int, name: str, image: NDArray[np.uint8]) -> None:
        """Records a uint8 image, (H,W) or (H,W,3), as `images/<name>/<step>.png`."""
        buffer = io.BytesIO()
        Image.fromarray(image).save(buffer, format="png")
        self._artifact(f"images/{name}/{step:08d}.png", buffer.getvalue())

    def text(self, name: str, text: str) -> None:
        """Records a text under the file name `name`; secrets in URLs are hidden."""
        self._artifact(name, redact_text(text).encode())

    def json(self, name: str, value: Any) -> None:
        """Records `value` as JSON under the file name `name`; secrets are hidden."""
        text = json.dumps(redact(value), indent=2, default=str)
        self._artifact(name, text.encode())

    def note(self, kind: str, content: Mapping[str, Any]) -> None:
        """Records `content` in the journal alone, for whoever continues the run."""
        self._record({kind: dict(content)})

    def close(self, timeout: float = 30.0) -> bool:
        """Sends what is left for at most `timeout` seconds; says what could not be sent.

        Returns whether MLflow has everything.
        """
        return self._sender.close(timeout)

    def _artifact(self, name: str, data: bytes) -> None:
        _checked(name)
        self._record({"artifact": name}, before=lambda: self._journal.keep_file(name, data))

    def _record(self, record: dict[str, Any], before: Callable[[], None] | None = None) -> None:
        try:
            if before is not None:
                before()
            self._journal.append({"time": time.time_ns() // 1_000_000, **record})
        except OSError as error:
            if not self._broken:
                _log.warning("journal %s: reports are being lost: %s", self._journal.path, error)
            self._broken = True
            return
        self._broken = False
        self._sender.wake()


@functools.lru_cache(maxsize=4096)
def _checked(name: str) -> str:
    """`name`, if MLflow takes it as metric or artifact; else raises ValueError."""
    fits = len(name) <= 250 and _NAME.fullmatch(name)
    if fits and not {".", ".."} & set(name.split("/")):
        return name
    raise ValueError(
        f"{name!r} cannot name a metric or artifact: use at most 250 letters, digits, '_-. :' "
        "and '/' between non-empty parts"
    )
