"""One process at a time trains a run: who does says so in `lease.json`, and keeps saying it.

Object stores have no locks. A newcomer writes its claim, waits for claims of the same moment, and
has the lease if its own is the one that stayed. A claim counts while it is renewed: an owner that
died on this host is known by its process, any other by a claim that stands still.
"""

import logging
import os
import secrets
import socket
import time
from collections.abc import Callable
from threading import Event, Thread
from types import TracebackType

from pydantic import Field, ValidationError

from pipeline.config.base import ConfigModel
from pipeline.errors import InputError
from pipeline.storage import Location

LEASE = "lease.json"
log = logging.getLogger(__name__)


class LeaseRecord(ConfigModel):
    """Contents of `lease.json`. Times are in seconds since 1970, by the owner's clock."""

    token: str
    host: str
    pid: int = Field(gt=0, lt=2**31)
    job: str
    since: float
    renewed: float


class Lease:
    """The right to train the run in a folder, from entering the context until leaving it."""

    def __init__(
        self,
        run: Location,
        job: str,
        *,
        on_loss: Callable[[], None],
        period: float = 10.0,
        stale: float = 60.0,
        together: float = 1.0,
    ) -> None:
        """Prepare a claim.

        Args:
            job: what this process is known as to the cluster.
            on_loss: called, in another thread, when another process has taken the run over.
            period: seconds between renewals.
            stale: seconds without a renewal after which a claim may be taken over.
            together: seconds within which claims count as made at once.
        """
        self._place = run / LEASE
        self._period, self._stale, self._together = period, stale, together
        now = time.time()
        self._claim = LeaseRecord(
            token=secrets.token_hex(8),
            host=socket.gethostname(),
            pid=os.getpid(),
            job=job,
            since=now,
            renewed=now,
        )
        self._leaving = Event()
        self._on_loss = on_loss
        self._thread = Thread(target=self._renew, name="lease", daemon=True)

    def __enter__(self) -> "Lease":
        """Take the lease.

        Raises:
            InputError: another process has it; names it and the age of its last sign of life.
        """
        owner = self._owner()
        if owner is not None:
            self._refuse_unless_gone(owner)
            log.warning("taking the run over from %s, which is gone", _who(owner))
        self._write()
        time.sleep(self._together)
        self._refuse_other()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Give the lease back."""
        self._leaving.set()
        self._thread.join()
        owner = self._owner()
        if owner is not None and owner.token == self._claim.token:
            self._place.delete()

    def _refuse_unless_gone(self, owner: LeaseRecord) -> None:
        if owner.host == self._claim.host and not _is_alive(owner.pid):
            return
        if time.time() - owner.renewed > self._stale:  # or its clock is wrong: look again
            time.sleep(2 * self._period)
            if self._owner() == owner:
                return
        raise _refusal(self._place, owner)

    def _refuse_other(self) -> None:
        owner = self._owner()
        if owner is not None and owner.token != self._claim.token:
            raise _refusal(self._place, owner)

    def _renew(self) -> None:
        while not self._leaving.wait(self._period):
            try:
                owner = self._owner()
                if owner is not None and owner.token != self._claim.token:
                    log.error("%s has taken this run over; stopping", _who(owner))
                    self._on_loss()
                    return
                self._write()
            except InputError as error:
                log.warning("the lease of the run could not be renewed: %s", error)

    def _write(self) -> None:
        self._claim = self._claim.model_copy(update={"renewed": time.time()})
        self._place.write_bytes(self._claim.model_dump_json(indent=2).encode())

    def _owner(self) -> LeaseRecord | None:
        try:
            return LeaseRecord.model_validate_json(self._place.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            raise InputError(
                f"{self._place} cannot be read ({error}); if nobody trains this run, delete it"
            ) from None


def _refusal(place: Location, owner: LeaseRecord) -> InputError:
    age = time.time() - owner.renewed
    return InputError(
        f"this run is being trained by {_who(owner)}, last sign of life {age:.0f} s ago ({place}); "
        "stop that one first, or choose another name"
    )


def _who(owner: LeaseRecord) -> str:
    return f"process {owner.pid} on {owner.host} (job {owner.job})"


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True  # someone else's
    return True
