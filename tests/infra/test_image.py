"""The Dockerfile: its rules, and its install steps followed in a clean folder."""

import re
import subprocess
import sys
import zipfile
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE = (ROOT / "infra/Dockerfile").read_text(encoding="utf-8")
STEPS = [
    tuple(step.split(None, 1))
    for step in re.sub(r"#.*\n|\\\n", "", DOCKERFILE).splitlines()
    if step.strip()
]


def copied() -> set[str]:
    """What the image takes from this project."""
    words = [rest.split() for keyword, rest in STEPS if keyword == "COPY"]
    return {source for parts in words if parts[0][:2] != "--" for source in parts[:-1]}


def test_what_is_copied_exists_and_is_sent():
    """Each COPY has its source, and `.dockerignore` lets exactly that through."""
    ignore = (ROOT / ".dockerignore").read_text().splitlines()
    sent = {line[1:] for line in ignore if line.startswith("!")}
    assert "*" in ignore
    for source in copied():
        assert (ROOT / source).exists(), source
        assert any(fnmatch(source, pattern) or source.startswith(f"{pattern}/") for pattern in sent)
    assert all(any(c == s or c.startswith(f"{s}/") for c in copied()) for s in sent)


def test_bases_are_exact_and_the_user_is_not_root():
    """No moving tag, versions from constraints.txt, a token or nothing."""
    image = dict(rest.split("=", 1) for keyword, rest in STEPS if keyword == "ARG" and "=" in rest)
    assert re.fullmatch(
        r"docker\.io/library/python:3\.11\.\d+-slim-bookworm", image["PYTHON_IMAGE"]
    )
    bases = [rest.split()[0] for keyword, rest in STEPS if keyword == "FROM"]
    assert set(bases) == {"${PYTHON_IMAGE}", "base"}
    assert [rest for keyword, rest in STEPS if keyword == "USER"] == ["1000"]
    installs = [rest for keyword, rest in STEPS if keyword == "RUN" and "pip install" in rest]
    allowed = ("--require-hashes --no-deps -r", "-c /build/constraints.txt", "--no-deps /build")
    assert len(installs) == 4
    assert all(any(how in install for how in allowed) for install in installs)
    assert "RAY_AUTH_MODE=token" in DOCKERFILE


@pytest.mark.slow
def test_the_image_installs_in_a_clean_folder(tmp_path):
    """The build's files are all that a wheel needs; it brings our packages and presets."""
    names = [name for name in sorted(copied()) if name not in ("data", "jobs/presets")]
    subprocess.run(["cp", "-r", *names, str(tmp_path)], cwd=ROOT, check=True)
    wheel = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-q", "-w", "out", "."]
    subprocess.run(wheel, cwd=tmp_path, check=True)
    (built,) = (tmp_path / "out").glob("*.whl")
    target = tmp_path / "installed"
    with zipfile.ZipFile(built) as archive:
        archive.extractall(target)
    preset = target / "jobs/presets/fashion_mnist_cpu.yaml"
    command = [sys.executable, "-m", "jobs.train", "--config", str(preset), "no_such_key=1"]
    clean = {"PATH": "/usr/bin:/bin", "PYTHONPATH": str(target), "HOME": str(tmp_path)}
    done = subprocess.run(
        command, cwd=tmp_path / "out", env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "no_such_key: unknown key" in done.stderr


@pytest.mark.slow
def test_the_pins_fit_together():
    """pip finds nothing to change or add: constraints.txt holds all that the image installs."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "-c", "constraints.txt"]
    extras = ["mlflow[auth]", "psycopg[binary]", "boto3"]
    done = subprocess.run(
        [*command, ".[fast]", *extras], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    would = re.findall(r"Would install (.*)", done.stdout)
    assert would in ([], ["vdm-pipeline-0.1.0"]), done.stdout
