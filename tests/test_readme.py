"""The README tells the truth: its examples run, its commands parse, its tree is the tree."""

import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.config.evaluate import EvaluateConfig
from pipeline.config.export import ExportConfig
from pipeline.config.load import load_config
from pipeline.config.prepare import PrepareConfig
from pipeline.config.quality import GateJobConfig, QualityConfig, TrainFeaturesConfig
from pipeline.config.sample import SampleConfig
from pipeline.config.train import TrainConfig

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SCHEMAS = {
    "prepare": PrepareConfig,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "export": ExportConfig,
    "sample": SampleConfig,
    "features": TrainFeaturesConfig,
    "quality": QualityConfig,
    "gate": GateJobConfig,
}


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, flags=re.DOTALL)


def test_the_tree_is_up_to_date() -> None:
    """A file that was added, moved or given another purpose shows in the README."""
    updated = runpy.run_path(str(ROOT / "infra/readme_tree.py"))["updated"]
    assert updated(README) == README, "run: python infra/readme_tree.py --write"


def test_the_jobs_commands_are_valid() -> None:
    """Every `python -m jobs.X --config ...` of the README and its overrides fit their schema."""
    text = "\n".join(blocks("bash")).replace("\\\n", " ")
    commands = re.findall(r"python -m jobs\.(\w+)([^#\n]*)", text)
    assert {job for job, _ in commands} == set(SCHEMAS)
    for job, rest in commands:
        files = re.findall(r"--config (\S+)", rest)
        overrides = [word for word in shlex.split(rest) if "=" in word]
        load_config(SCHEMAS[job], [str(ROOT / file) for file in files], overrides)


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
