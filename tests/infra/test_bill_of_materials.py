"""The bill of materials and the pins: what we depend on is listed, and fixed."""

import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def name(requirement: str) -> str:
    """The normalised name of a requirement."""
    return re.sub(r"[-_.]+", "-", re.match(r"[\w.-]+", requirement).group()).lower()


def pins() -> dict[str, str]:
    """constraints.txt, by normalised name."""
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    exact = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {name(package): version for package, version in exact}


def test_every_dependency_of_tests_and_images_is_pinned():
    """Direct dependencies, and those of the extras that the tests and the images install."""
    wanted = list(PROJECT["dependencies"])
    for extra in ("fast", "server", "dev"):
        wanted += PROJECT["optional-dependencies"][extra]
    assert {name(w) for w in wanted} - {"vdm-pipeline"} <= pins().keys()


@pytest.mark.slow
def test_the_bill_lists_what_is_installed(tmp_path):
    """Each direct dependency with the version that is pinned; the command is the Makefile's."""
    rule = re.search(r"^sbom:.*\n\t(.*)", (ROOT / "Makefile").read_text(), re.M).group(1)
    bin_folder, output = str(Path(sys.executable).parent), str(tmp_path / "sbom.json")
    command = rule.replace("$(BIN)", bin_folder).replace("sbom.json", output)
    subprocess.run(command.split(), cwd=ROOT, check=True, capture_output=True)
    bill = json.loads(Path(output).read_text())
    assert bill["bomFormat"] == "CycloneDX"
    listed = {name(c["name"]): c["version"].split("+")[0] for c in bill["components"]}
    fixed = pins()
    for requirement in PROJECT["dependencies"]:
        assert listed[name(requirement)] == fixed[name(requirement)]
