"""What a machine of a run is doing, for MLflow's page of system metrics."""

import threading
from pathlib import Path

from pipeline.tracking.store import system_monitors
from pipeline.tracking.tracker import Tracker


class SystemMetrics(threading.Thread):
    """Use of CPU, memory, disk, network and GPUs of this machine, every `seconds`.

    The names are those of MLflow's own monitoring, `system/<node>/<name>`; its way to the server
    is ours: through a journal, so that an absent server costs nothing. One process of each
    machine holds one. The points go on counting where the journal ends.
    """

    def __init__(
        self,
        uri: str,
        run_id: str,
        folder: str | Path,
        node: str,
        *,
        gpu: bool = False,
        seconds: float = 10.0,
    ) -> None:
        """Start at once; the journal is `system-<node>.jsonl` in `folder`."""
        super().__init__(name="system-metrics", daemon=True)
        self._group, self._seconds = f"system/{node}/", seconds
        journal = Path(folder) / f"system-{node}.jsonl"
        self._count = journal.read_bytes().count(b"\n") if journal.exists() else 0
        self._tracker = Tracker(uri, run_id, journal, period=seconds, group=self._group)
        self._monitors = system_monitors(gpu)
        self._closing = threading.Event()
        self.start()

    def run(self) -> None:
        """Measure until closed."""
        while True:
            values: dict[str, float] = {}
            for monitor in self._monitors:
                monitor.collect_metrics()
                values |= monitor.aggregate_metrics()
                monitor.clear_metrics()
            self._tracker.metrics(
                self._count, {self._group + name: value for name, value in values.items()}
            )
            self._count += 1
            if self._closing.wait(self._seconds):
                return

    def close(self, timeout: float = 5.0) -> None:
        """Stop measuring and send what is left, for at most `timeout` seconds."""
        self._closing.set()
        self.join()
        self._tracker.close(timeout)
