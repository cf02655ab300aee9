"""A run seen from its driver: how far each attempt came, why it ended, whether it should stop.

A `RunMonitor` lives in a small Ray actor on the driver's node, where it outlives the workers; an
attempt is one life of the worker group. Ray restarts the group after a failure for as long as
`cluster.max_failures` allows, whatever that helps; the monitor sees when it does not.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import ray
from ray.train import UserCallback
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from pipeline.errors import RunFailedError

_FUTILE_RESTARTS = 2


class CrashLoopError(RunFailedError):
    """Restarting the workers does not help; the text has the error of the last attempt."""


@dataclass
class _Attempt:
    furthest: int = 0  # steps done, as far as was heard
    world: int = 0
    reports: dict[int, str] = field(default_factory=dict)  # rank -> traceback, in order of arrival
    ended: dict[int, str] = field(default_factory=dict)  # rank -> what Ray has to say of its end


class RunMonitor:
    """What is known of a run's attempts, and whether it was asked to stop."""

    def __init__(self) -> None:
        self._attempts: list[_Attempt] = []
        self._stop = False

    def begin(self, world: int) -> str | None:
        """A new attempt of `world` ranks begins. Returns why it should not, or None.

        It should not after two restarts in a row that failed and came no further than before.
        """
        done = [0]
        for attempt in self._attempts:
            done.append(max(done[-1], attempt.furthest))
        tried = self._attempts[-_FUTILE_RESTARTS:]
        told = self.failure()
        self._attempts.append(_Attempt(world=world))
        if len(done) < _FUTILE_RESTARTS + 2 or done[-1] > done[-1 - _FUTILE_RESTARTS]:
            return None
        if not all(attempt.ended or attempt.reports for attempt in tried):
            return None  # the group was resized, not broken
        return (
            f"{_FUTILE_RESTARTS} restarts of the workers in a row came no further than step "
            f"{done[-1]}, so another would not. The last one ended so:\n{told}"
        )

    def heard(self, step: int) -> bool:
        """`step` steps are done. Returns whether the run was asked to stop."""
        attempt = self._attempts[-1]
        attempt.furthest = max(attempt.furthest, step)
        return self._stop

    def failed(self, rank: int, text: str) -> None:
        """A rank raised. The first one is the cause, what follows are its consequences."""
        self._attempts[-1].reports.setdefault(rank, text.rstrip())

    def ended(self, texts: Mapping[int, str]) -> None:
        """Ray found workers failed or dead; texts by rank."""
        if self._attempts:
            self._attempts[-1].ended.update(texts)

    def failure(self) -> str | None:
        """How the last attempt failed: the first error and, of a time-out, who kept silent."""
        attempt = self._attempts[-1] if self._attempts else _Attempt()
        for rank, text in [*attempt.reports.items(), *sorted(attempt.ended.items())]:
            told = f"rank {rank} failed first, after about step {attempt.furthest}:\n{text}"
            silent = sorted(set(range(attempt.world)) - attempt.reports.keys())
            if silent and "timed out" in text.lower():
                told += f"\nIt waited for rank {', '.join(map(str, silent))}, which kept silent."
            return told
        return None

    def request_stop(self) -> None:
        """Let the workers save and leave after the step that they are in."""
        self._stop = True


class TellMonitor(UserCallback):
    """Ray Train's controller tells the monitor how workers ended that could not say so."""

    def __init__(self, monitor: Any) -> None:
        self.monitor = monitor

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Hand the texts on."""
        ray.get(self.monitor.ended.remote({r: str(e) for r, e in worker_exceptions.items()}))


def start_monitor() -> Any:
    """A `RunMonitor` as an actor that stays on this node, where the driver is."""
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(num_cpus=0, scheduling_strategy=here)(RunMonitor).remote()
