"""Hosts of their own on this machine: network namespaces on one switch, whose cables can be pulled.

Each host has an address, a name and a `/tmp/ray` that the others do not see; files elsewhere are
shared, as on a network file system. It needs root, and `ip` from iproute2.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

PREFIX = "vdm-test-"  # then the id of the process that made it
_LIVE_IN = (
    'hostname "$0"; mount --bind "$1" /tmp/ray; mount --bind "$2" /etc/hosts; shift 2; exec "$@"'
)


def ip(*words: str) -> str:
    """The output of `ip …`."""
    return subprocess.run(["ip", *words], check=True, capture_output=True, text=True).stdout


class Host:
    """A network namespace, one cable and the processes in it."""

    def __init__(self, group: str, number: int, folder: Path) -> None:
        """Make it and plug it into the switch of the group."""
        self.name, self.address = f"host{number}", f"10.77.0.{number}"
        self._space, self._switch = f"{group}-{number}", f"{group}-switch"
        self._own = [folder / f"{self.name}-tmp", folder / "hosts"]
        self._own[0].mkdir()
        ip("netns", "add", self._space)
        ip(
            *("-n", self._space, "link", "add", "eth0", "type", "veth"),
            *("peer", "name", self.name, "netns", self._switch),
        )
        ip("-n", self._space, "address", "add", f"{self.address}/24", "dev", "eth0")
        for end in ("lo", "eth0"):
            ip("-n", self._space, "link", "set", end, "up")
        ip("-n", self._switch, "link", "set", self.name, "master", "switch", "up")

    def pull_cable(self) -> None:
        """Nothing passes any more: no packet, no reset."""
        ip("-n", self._switch, "link", "set", self.name, "down")

    def command(self, *words: str) -> list[str]:
        """The command line that runs `words` on this host."""
        inside = ["ip", "netns", "exec", self._space, "unshare", "--uts", "--mount"]
        own = [str(path) for path in self._own]
        return [*inside, "sh", "-ec", _LIVE_IN, self.name, *own, *words]

    def workers(self) -> list[psutil.Process]:
        """The training workers on this host."""
        found = []
        for process in _inhabitants(self._space):
            with suppress(psutil.NoSuchProcess):
                if "".join(process.cmdline()).startswith("ray::RayTrainWorker"):
                    found.append(process)
        return found


@contextmanager
def hosts(count: int, folder: Path) -> Iterator[list[Host]]:
    """So many hosts on one switch; all that lives on them ends with them.

    What a killed session has left is cleared away first.

    Raises:
        PermissionError: this user, or this machine, has no network namespaces.
    """
    remove_stale()
    group = f"{PREFIX}{os.getpid()}"
    _try_out(f"{group}-switch")
    try:
        ip("-n", f"{group}-switch", "link", "add", "switch", "type", "bridge")
        ip("-n", f"{group}-switch", "link", "set", "switch", "up")
        Path("/tmp/ray").mkdir(exist_ok=True)  # where each host mounts its own
        names = ["127.0.0.1 localhost", *(f"10.77.0.{n} host{n}" for n in range(1, count + 1))]
        (folder / "hosts").write_text("\n".join(names) + "\n")
        yield [Host(group, number, folder) for number in range(1, count + 1)]
    finally:
        _remove(group)


def _try_out(space: str) -> None:
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        raise PermissionError("there is no `ip` or no `unshare` here")
    try:
        ip("netns", "add", space)
        ip("netns", "exec", space, "unshare", "--uts", "--mount", "hostname", "tried")
    except subprocess.CalledProcessError as error:
        _remove(space)
        raise PermissionError(f"no network namespaces here: {error.stderr.strip()}") from None


def remove_stale() -> None:
    """Remove the hosts of sessions that are no more."""
    for space in _spaces():
        owner = space.removeprefix(PREFIX).partition("-")[0]
        if not psutil.pid_exists(int(owner)):
            _remove(space)


def _remove(group: str) -> None:
    """Kill whoever lives in the namespaces of that name's beginning, and remove them."""
    for space in [space for space in _spaces() if f"{space}-".startswith(f"{group}-")]:
        deadline = time.monotonic() + 30
        while living := _inhabitants(space):
            for process in living:
                with suppress(psutil.NoSuchProcess):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(living, timeout=1)
            if time.monotonic() > deadline:
                raise TimeoutError(f"{living} live on in {space}")
        ip("netns", "delete", space)


def _spaces() -> list[str]:
    if shutil.which("ip") is None:
        return []
    names = [line.split()[0] for line in ip("netns", "list").splitlines() if line.strip()]
    return [name for name in names if name.startswith(PREFIX)]


def _inhabitants(space: str) -> list[psutil.Process]:
    found = []
    for pid in ip("netns", "pids", space).split():
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(int(pid))
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found
