"""What `gs://` asks of a store, and for how long, as far as the wire shows it without Google.

Nothing here has talked to Google's servers.
"""

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from pipeline import object_store
from pipeline.errors import InputError
from pipeline.storage import open_storage


@contextmanager
def answering(statuses: list[int]) -> Iterator[tuple[str, list[str]]]:
    """A server with these statuses, one a request, then 200 and an object of 1,000 bytes."""
    asked: list[str] = []

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path.partition("?")[0])
            status = statuses.pop(0) if statuses else 200
            found = {"kind": "storage#object", "bucket": "bucket", "name": "a/x", "size": "1000"}
            body = json.dumps(found).encode() if status == 200 else b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """use(endpoint): where `gs://` goes, with two seconds of patience."""
    monkeypatch.setattr(object_store, "_GS_SECONDS", 2.0)
    object_store._gs.cache_clear()
    yield lambda endpoint: monkeypatch.setenv("STORAGE_EMULATOR_HOST", endpoint)
    object_store._gs.cache_clear()


def test_an_object_is_asked_for_by_name_and_a_busy_store_again(
    use: Callable[[str], None],
) -> None:
    with answering([503]) as (endpoint, asked):
        use(endpoint)
        assert (open_storage("gs://bucket/a") / "x").size() == 1000
    assert asked == ["/storage/v1/b/bucket/o/a%2Fx"] * 2


def test_a_store_that_stays_away_ends_in_one_clear_error(use: Callable[[str], None]) -> None:
    """Google's client would try for a quarter of an hour."""
    use("http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"cannot reach gs://bucket/a/x: .*check the address"):
        (open_storage("gs://bucket/a") / "x").size()
