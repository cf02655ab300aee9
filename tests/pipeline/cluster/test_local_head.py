"""The local Ray head: its ports, its token, and that it takes nothing else along when it ends."""

import os
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest

from pipeline.cluster import local_head as rooms
from pipeline.cluster.local_head import LOOPBACK, choose_ports, local_head, submit
from pipeline.errors import InputError

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def taken() -> int:
    """A port that somebody listens on."""
    with socket.socket() as server:
        server.bind((LOOPBACK, 0))
        server.listen()
        yield server.getsockname()[1]


def test_a_taken_port_is_refused_before_anything_starts(taken, tmp_path, monkeypatch):
    """No process, no token, no folder."""
    monkeypatch.setattr(rooms, "TOKEN_FILE", tmp_path / ".ray" / "auth_token")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    before = psutil.Process().children()
    for ports in ({"port": taken}, {"dashboard_port": taken}):
        with pytest.raises(InputError, match=f"port {taken} .* not free"), local_head(1, **ports):
            pass
    assert psutil.Process().children() == before
    assert list(tmp_path.iterdir()) == []


def test_chosen_ports_differ_and_given_ones_are_kept():
    ports = choose_ports(None, None)
    assert len(set(ports)) == len(ports)
    assert choose_ports(ports.head, None).head == ports.head


TOKEN_SCRIPT = """
import os
from pipeline.cluster.local_head import client_environment
assert client_environment()["RAY_AUTH_MODE"] == "token"
"""


def make_environment(home: Path, **variables: str) -> Path:
    """Call `client_environment` in a process whose home is `home`; the token's file."""
    inherited = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    subprocess.run(
        [sys.executable, "-c", TOKEN_SCRIPT],
        env=inherited | {"HOME": str(home), "PYTHONPATH": str(ROOT)} | variables,
        check=True,
    )
    return home / ".ray" / "auth_token"


def test_a_missing_token_is_made_for_its_owner_alone_and_an_old_one_kept(tmp_path):
    token = make_environment(tmp_path)
    assert len(token.read_text()) >= 32
    assert token.stat().st_mode & 0o777 == 0o600
    first = token.read_text()
    assert make_environment(tmp_path).read_text() == first


def test_a_token_in_the_environment_needs_no_file(tmp_path):
    assert not make_environment(tmp_path, RAY_AUTH_TOKEN="x" * 32).exists()


def status(url: str, token: str | None = None) -> int:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers)) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def alive(processes: list[psutil.Process]) -> list[psutil.Process]:
    return [p for p in processes if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_head_asks_for_its_token_and_ends_alone(tmp_path, monkeypatch):
    """Two heads side by side: each works, and when one ends the other goes on."""
    token = "0123456789abcdef" * 4
    monkeypatch.setenv("RAY_AUTH_TOKEN", token)
    (tmp_path / "job").mkdir()
    (tmp_path / "job" / "hello.py").write_text("print('hello from the job')")
    with local_head(1) as second:
        with local_head(1) as first:
            for head in (first, second):
                assert status(f"{head.dashboard}/api/jobs/") == 401
                assert status(f"{head.dashboard}/api/jobs/", "0" * 64) in (401, 403)
                assert status(f"{head.dashboard}/api/jobs/", token) == 200
            with pytest.raises(subprocess.CalledProcessError):
                submit(first, ["python", "-c", "raise SystemExit(3)"], tmp_path / "job")
            started = [p for p in psutil.process_iter() if in_group(p, head_of(first))]
            assert len(started) > 3
        _, left = psutil.wait_procs(started, timeout=10)
        assert alive(left) == []
        submit(second, ["python", "hello.py"], tmp_path / "job")


def head_of(head: rooms.Head) -> int:
    """The process id of `ray start` behind a head."""
    port = head.dashboard.rpartition(":")[2]
    (found,) = [
        child.pid
        for child in psutil.Process().children()
        if f"--dashboard-port={port}" in " ".join(child.cmdline())
    ]
    return found


def in_group(process: psutil.Process, leader: int) -> bool:
    try:
        return os.getpgid(process.pid) == leader
    except ProcessLookupError:
        return False


def test_a_head_that_does_not_start_is_an_error_with_its_log(tmp_path, monkeypatch):
    """Here because Ray is not where PATH says."""
    (tmp_path / "ray").write_text("#!/bin/sh\necho no such thing\nexit 1\n")
    (tmp_path / "ray").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(InputError, match="no such thing"), local_head(1):
        pass
