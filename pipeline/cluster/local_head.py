"""A Ray head on this machine, on the loopback, with token authentication; stopped at the end.

Only what was started here is stopped: `ray stop` would end every Ray process of the machine.
"""

import logging
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from pipeline.errors import InputError

LOOPBACK = "127.0.0.1"
TOKEN_FILE = Path.home() / ".ray" / "auth_token"
START_SECONDS, STOP_SECONDS = 90.0, 5.0
JOINED = "Ray runtime started"  # `ray start` says so once the raylet is known to the head
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy to the loopback
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Head:
    """A running head: where its dashboard answers, and the environment of its clients."""

    dashboard: str
    environment: dict[str, str]


@contextmanager
def local_head(
    cpus: int, *, port: int | None = None, dashboard_port: int | None = None
) -> Iterator[Head]:
    """Start a head of `cpus` CPUs and stop it, and only it, on the way out.

    Raises:
        InputError: a port that is taken, or a head that does not answer; with its log.
    """
    with ExitStack() as stack:
        ports = choose_ports(port, dashboard_port)
        folder = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="vdm-ray-", ignore_cleanup_errors=True)
        )
        environment = client_environment()
        output = stack.enter_context((Path(folder) / "head.log").open("w+"))
        process = subprocess.Popen(
            _command(cpus, ports, folder),
            # without it Ray's own actors would look for the head that was started last
            env=environment | {"RAY_ADDRESS": f"{LOOPBACK}:{ports.head}"},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        stack.callback(_stop, process)
        dashboard = f"http://{LOOPBACK}:{ports.dashboard}"
        _wait_until_ready(dashboard, process, Path(output.name))
        log.info("Ray head started: dashboard %s, token authentication on", dashboard)
        yield Head(dashboard, environment | {"RAY_ADDRESS": dashboard})


class Ports(NamedTuple):
    """What a head listens on; with Ray's defaults for the last two, two heads would collide."""

    head: int
    dashboard: int
    dashboard_agent: int
    client_server: int


def choose_ports(head: int | None, dashboard: int | None) -> Ports:
    """The given ports if they are free on the loopback, and free ones for the rest.

    Raises:
        InputError: a given port is taken.
    """
    with ExitStack() as held:  # all at once, so that they differ
        return Ports(*(_bind(held, port) for port in (head, dashboard, None, None)))


def _bind(held: ExitStack, port: int | None) -> int:
    probe = held.enter_context(socket.socket())
    try:
        probe.bind((LOOPBACK, port or 0))
    except OSError as error:
        raise InputError(
            f"port {port} on {LOOPBACK} is not free ({error.strerror}); choose another, or "
            "leave it out to take any free one"
        ) from None
    return int(probe.getsockname()[1])


def client_environment() -> dict[str, str]:
    """The environment for the head and its clients; makes a token if the user has none."""
    given = {"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & os.environ.keys()
    if not given and not TOKEN_FILE.exists():
        _make_token()
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    inherited = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    return inherited | {
        "PATH": path,  # a submitted job runs the head's `python`
        "RAY_AUTH_MODE": "token",
        "RAY_JOB_STOP_WAIT_TIME_S": os.environ.get("RAY_JOB_STOP_WAIT_TIME_S", "40"),
        "RAY_USAGE_STATS_ENABLED": os.environ.get("RAY_USAGE_STATS_ENABLED", "0"),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }


def _make_token() -> None:
    TOKEN_FILE.parent.mkdir(mode=0o700, exist_ok=True)
    with suppress(FileExistsError):  # another head may have been first
        descriptor = os.open(TOKEN_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_hex(32))


def submit(head: Head, entrypoint: Sequence[str], working_dir: Path) -> None:
    """Run `ray job submit` and follow its log to the end; on Ctrl-C or SIGTERM stop the job.

    The job has to be asked: its processes would outlive the head.

    Raises:
        subprocess.CalledProcessError: the job failed; its log has been shown.
    """
    job = f"vdm-{secrets.token_hex(6)}"
    options = ["--submission-id", job, "--working-dir", str(working_dir)]
    try:
        subprocess.run(
            ["ray", "job", "submit", *options, "--", *entrypoint], env=head.environment, check=True
        )
    except (KeyboardInterrupt, SystemExit):
        subprocess.run(
            ["ray", "job", "stop", job],
            env=head.environment,
            check=False,  # it may not have begun
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        raise


def _command(cpus: int, ports: Ports, folder: str) -> list[str]:
    return [
        "ray", "start", "--head", "--block",
        f"--node-ip-address={LOOPBACK}", f"--port={ports.head}",
        "--include-dashboard=true",
        f"--dashboard-host={LOOPBACK}", f"--dashboard-port={ports.dashboard}",
        f"--dashboard-agent-listen-port={ports.dashboard_agent}",
        f"--ray-client-server-port={ports.client_server}",
        f"--num-cpus={cpus}", "--num-gpus=0", f"--temp-dir={folder}",
        "--disable-usage-stats",
    ]  # fmt: skip


def _wait_until_ready(dashboard: str, process: subprocess.Popen[bytes], output: Path) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        if _answers(dashboard) and JOINED in output.read_text():
            return
        time.sleep(0.5)
    raise InputError(f"the Ray head did not start:\n{output.read_text()[-2000:]}")


def _answers(dashboard: str) -> bool:
    """Whether the jobs server is up; 401 means up, and that it wants the token."""
    try:
        with _DIRECT.open(f"{dashboard}/api/version", timeout=2):
            return True
    except urllib.error.HTTPError as error:
        return error.code == 401
    except OSError:
        return False


def _stop(process: subprocess.Popen[bytes]) -> None:
    """End the process group that `local_head` started.

    `ray start --block` takes its children along when it is told to end; what is left of the group
    after that, or after `STOP_SECONDS`, is killed, and waited for, since a killed process still
    holds its ports and files for a moment.
    """
    process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_SECONDS)
    deadline = time.monotonic() + STOP_SECONDS
    with suppress(ProcessLookupError):  # the group is empty
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        while time.monotonic() < deadline:
            os.killpg(process.pid, 0)
            time.sleep(0.02)
    process.wait()
