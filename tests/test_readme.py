"""The README tells the truth: its examples run, its commands parse, its tree is the tree."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from job_commands import SCHEMAS, load_command

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_tree_is_up_to_date() -> None:
    """A file that was added, moved or given another purpose shows in the README."""
    updated = runpy.run_path(str(ROOT / "infra/readme_tree.py"))["updated"]
    assert updated(README) == README, "run: python infra/readme_tree.py --write"


def test_the_jobs_commands_are_valid() -> None:
    """Every `python -m jobs.X --config ...` of the README and its overrides fit their schema."""
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    commands = re.findall(r"python -m jobs\.[^#\n]*", text)
    read = {load_command(command, {"jobs/": f"{ROOT}/jobs/"})[0] for command in commands}
    assert read == set(SCHEMAS)


@pytest.mark.parametrize("number", range(len(blocks("python"))))
def test_the_examples_run(number: int, tmp_path: Path) -> None:
    """Each Python example runs as it stands, the long one with fewer steps, and draws a picture."""
    code = blocks("python")[number].replace("STEPS = 2000", "STEPS = 5")
    (tmp_path / "example.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-W", "error", "example.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for picture in re.findall(r'savefig\("(.*)"\)', code):
        assert (tmp_path / picture).stat().st_size > 10_000


def test_pictures_exist() -> None:
    """No broken picture."""
    assert all((ROOT / path).is_file() for path in re.findall(r"!\[.*?\]\((.*?)\)", README))
