"""docs/operations, followed from a fresh copy: its commands are given, its lines are seen.

The pages are read in the order of a night on call, in one terminal and those that they ask for, on
one Ray cluster. What needs Kubernetes, Docker or AWS is parsed in test_operations_docs.py.
"""

import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from operations_pages import ORDER, blocks
from operations_shell import ELSEWHERE, Shell, elsewhere


@pytest.fixture
def shell() -> Iterator[Shell]:
    """A terminal; whatever runs in it at the end is killed."""
    with tempfile.TemporaryDirectory(prefix="vdm-", ignore_cleanup_errors=True) as folder:
        shell = Shell(Path(folder))  # a short path: Ray's sockets lie below it
        try:
            yield shell
        finally:
            shell.end()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_pages_are_followed(shell: Shell) -> None:
    """Each command works and says what its page promises; Ctrl-C ends what went on until then."""
    for page in ORDER:
        for block in blocks(page):
            shell.follow(block)
        if page == "starting":
            with pytest.raises(urllib.error.HTTPError, match="401"):
                urllib.request.urlopen(f"{shell.jobs_server}/api/jobs/", timeout=60)
        if page == "watching":
            assert "fashion_mnist" in experiment(shell)
    while shell.terminals:
        shell.interrupt()
    every = [(b.page, command) for page in ORDER for b in blocks(page) for command in b.commands]
    assert shell.ran == [(page, command) for page, command in every if elsewhere(command) is None]
    assert {elsewhere(command) for _, command in every} == {None, *ELSEWHERE}


def experiment(shell: Shell) -> str:
    """What the MLflow server of the page knows of the run's experiment."""
    query = "api/2.0/mlflow/experiments/get-by-name?experiment_name=fashion_mnist"
    url = f"http://127.0.0.1:{shell.mlflow_port}/{query}"
    with urllib.request.urlopen(url, timeout=60) as answer:
        return str(answer.read())
