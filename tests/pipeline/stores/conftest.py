"""A real S3 server on the loopback, shared, and a proxy before it that misbehaves to order."""

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from pyarrow import fs

from s3_server import LOOPBACK, s3_server


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The server that the session's tests share; it has one bucket, `vdm-test`."""
    with s3_server(tmp_path_factory.mktemp("s3") / "server.log") as (endpoint, _):
        client = fs.S3FileSystem(
            access_key="any",
            secret_key="any",
            region="us-east-1",
            endpoint_override=endpoint,
            allow_bucket_creation=True,
        )
        client.create_dir("vdm-test")
        yield endpoint


@pytest.fixture
def s3_environment(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """s3_environment(endpoint): what a person sets to use a store of their own."""

    def point_to(endpoint: str) -> None:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIDTEST")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
        monkeypatch.setenv("AWS_REGION", "us-east-1")
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")

    return point_to


@pytest.fixture
def bucket(
    s3_endpoint: str, s3_environment: Callable[[str], None], request: pytest.FixtureRequest
) -> str:
    """A fresh folder URL in the shared bucket; the environment points to its server."""
    s3_environment(s3_endpoint)
    return f"s3://vdm-test/{re.sub(r'[^a-z0-9]+', '-', request.node.name)}"


class FaultyProxy(ThreadingHTTPServer):
    """Forwards requests to a server; `faults` holds (method, fault) pairs, each used once.

    Faults: "503", "reset" (TCP RST), "stall" (no answer until the end), "cut" (half the body).
    """

    daemon_threads = True

    def __init__(self, endpoint: str) -> None:
        super().__init__((LOOPBACK, 0), _Forward)
        self.upstream = endpoint.removeprefix("http://")
        self.endpoint = f"http://{LOOPBACK}:{self.server_port}"
        self.faults: list[tuple[str, str]] = []
        self.requests: list[str] = []  # "GET", or "GET 503" where a fault was answered
        self.most_at_once = self._now = 0
        self.stalled = threading.Event()
        self._lock = threading.Lock()

    def enter(self, method: str) -> str:
        """Count a request in; the fault that it gets, or ""."""
        with self._lock:
            self._now += 1
            self.most_at_once = max(self.most_at_once, self._now)
            fault = next((fault for wanted, fault in self.faults if wanted == method), "")
            if fault:
                self.faults.remove((method, fault))
            self.requests.append(f"{method} {fault}".rstrip())
        return fault

    def leave(self) -> None:
        """Count a request out."""
        with self._lock:
            self._now -= 1


class _Forward(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyProxy

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def handle(self) -> None:
        try:
            super().handle()
        except (ConnectionError, ValueError):
            self.close_connection = True  # a client that gave up, or our own reset

    def answer(self) -> None:
        body = self._body()
        fault = self.server.enter(self.command)
        try:
            if fault == "503":
                self.send_response(503)
                self.send_header("Content-Length", "0")
                self.end_headers()
            elif fault == "reset":
                self.close_connection = True
                linger = struct.pack("ii", 1, 0)
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                self.connection.close()
            elif fault == "stall":
                self.close_connection = True
                self.server.stalled.wait(60)
            else:
                self._forward(body, cut=fault == "cut")
        finally:
            self.server.leave()

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer  # noqa: N815

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def _forward(self, body: bytes, cut: bool) -> None:
        upstream = http.client.HTTPConnection(self.server.upstream)
        headers = {k: v for k, v in self.headers.items() if k.lower() != "transfer-encoding"}
        headers["Content-Length"] = str(len(body))
        upstream.request(self.command, self.path, body, headers)
        answer = upstream.getresponse()
        data = answer.read()
        length = answer.getheader("Content-Length") if self.command == "HEAD" else len(data)
        upstream.close()
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "content-length", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(length or 0))
        self.end_headers()
        self.wfile.write(data[: len(data) // 2] if cut else data)
        self.close_connection = self.close_connection or cut


@pytest.fixture
def faulty(
    bucket: str, s3_endpoint: str, s3_environment: Callable[[str], None]
) -> Iterator[FaultyProxy]:
    """The proxy before the shared server; the environment points to it."""
    with FaultyProxy(s3_endpoint) as proxy:
        thread = threading.Thread(target=proxy.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        s3_environment(proxy.endpoint)
        yield proxy
        proxy.stalled.set()
        proxy.shutdown()
        thread.join()
