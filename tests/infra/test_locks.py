"""The locks of the images: complete, at the versions of constraints.txt, with digests."""

import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
LINE = re.compile(r"([a-z0-9-]+)==(\S+) --hash=sha256:[0-9a-f]{64}")
COMES_WITH_TORCH = {"torch", "triton", "setuptools"}


def versions(lock: str) -> dict[str, str]:
    """What a lock fixes. Every line but the first is a package with its digest."""
    lines = (ROOT / f"infra/locks/{lock}.txt").read_text(encoding="utf-8").splitlines()[1:]
    return dict(LINE.fullmatch(line).groups() for line in lines)


def closure(roots: list[str]) -> set[str]:
    """The names of all that `roots` need here, by the metadata of what is installed."""
    found: set[tuple[str, frozenset[str]]] = set()
    waiting = [Requirement(root) for root in roots]
    while waiting:
        wanted = waiting.pop()
        node = (canonicalize_name(wanted.name), frozenset(wanted.extras))
        if node in found:
            continue
        found.add(node)
        for text in metadata.requires(wanted.name) or ():
            need = Requirement(text)
            extras = [{"extra": extra} for extra in (*wanted.extras, "")]
            if need.marker is None or any(
                need.marker.evaluate(default_environment() | extra) for extra in extras
            ):
                waiting.append(need)
    return {name for name, _ in found}


@pytest.mark.parametrize(
    ("lock", "roots"),
    [
        ("cluster", ["vdm-pipeline[fast]"]),
        ("mlflow", ["mlflow[auth]", "psycopg[binary]", "boto3"]),
    ],
)
def test_a_lock_is_complete_and_says_what_the_tests_run_with(lock, roots):
    """Nothing that an image needs is left to the index; nothing is another version than here."""
    fixed = versions(lock)
    pins = dict(
        line.split("==")
        for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
        if "==" in line and not line.startswith("#")
    )
    here = {canonicalize_name(name): version for name, version in pins.items()}
    assert fixed == {name: here[name] for name in fixed}
    assert closure(roots) - COMES_WITH_TORCH - {"vdm-pipeline"} <= fixed.keys()


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["cluster", "mlflow"])
def test_the_index_still_has_these_archives(lock, tmp_path):
    """pip accepts each archive: its digest is the one in the lock."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--dest", str(tmp_path), "-r", f"infra/locks/{lock}.txt"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == len(versions(lock))
