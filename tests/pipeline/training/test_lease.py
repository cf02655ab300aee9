"""Two processes never train one run."""

import subprocess
import sys
import time
from pathlib import Path
from threading import Event, Thread

import pytest

from pipeline.errors import InputError
from pipeline.storage import Location, open_storage
from pipeline.training.lease import LEASE, Lease, LeaseRecord

QUICK = {"period": 0.05, "stale": 0.4, "together": 0.2, "on_loss": lambda: None}


@pytest.fixture
def run(tmp_path: Path) -> Location:
    return open_storage(str(tmp_path / "run"))


def claim(run: Location, **changes: object) -> None:
    """Someone else's claim."""
    now = time.time()
    owner = {"token": "x", "host": "elsewhere", "pid": 1, "job": "7", "since": now, "renewed": now}
    record = LeaseRecord.model_validate(owner | changes)
    (run / LEASE).write_bytes(record.model_dump_json().encode())


def test_the_second_is_refused_until_the_first_leaves(run: Location) -> None:
    """Refused by name for as long as the first lives, however long; free after it."""
    lost = Event()
    with Lease(run, "1", **QUICK | {"on_loss": lost.set}):
        time.sleep(1.2)
        with pytest.raises(InputError, match=r"trained by process \d+ on .* \(job 1\), last sign"):
            Lease(run, "2", **QUICK).__enter__()
        assert not lost.is_set()
    assert (run / LEASE).size() is None
    with Lease(run, "2", **QUICK):
        pass


def test_of_many_at_once_one_gets_it(run: Location) -> None:
    """All look at the empty folder at the same moment."""
    won: list[Lease] = []

    def compete(number: int) -> None:
        lease = Lease(run, str(number), **QUICK)
        try:
            lease.__enter__()
        except InputError:
            return
        won.append(lease)

    threads = [Thread(target=compete, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].__exit__(None, None, None)


def test_a_dead_process_of_this_host_gives_way_at_once(run: Location) -> None:
    """Its claim may be fresh: the process is known to be gone."""
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    host = Lease(run, "", **QUICK)._claim.host
    claim(run, host=host, pid=gone.pid)
    with Lease(run, "2", **QUICK | {"period": 60, "stale": 600}):
        pass


def test_a_claim_that_stands_still_gives_way(run: Location) -> None:
    """Nobody has renewed it, and nobody does while we look."""
    claim(run, renewed=time.time() - 1)
    with Lease(run, "2", **QUICK):
        pass


def test_a_clock_that_is_wrong_costs_nobody_the_run(run: Location) -> None:
    """A claim that looks old but moves is alive."""
    claim(run, renewed=time.time() - 1000)
    alive = Thread(target=lambda: (time.sleep(0.05), claim(run, renewed=time.time() - 990)))
    alive.start()
    with pytest.raises(InputError, match="process 1 on elsewhere"):
        Lease(run, "2", **QUICK).__enter__()
    alive.join()


def test_who_loses_the_run_notices(run: Location) -> None:
    """A newcomer took it over: the first is told to stop, and leaves the newcomer's claim alone."""
    lost = Event()
    with Lease(run, "1", **QUICK | {"on_loss": lost.set}):
        claim(run)
        assert lost.wait(10)
    assert (run / LEASE).size() is not None


def test_a_damaged_lease_is_named(run: Location) -> None:
    (run / LEASE).write_bytes(b"{")
    with pytest.raises(InputError, match=r"lease.json cannot be read"):
        Lease(run, "1", **QUICK).__enter__()
