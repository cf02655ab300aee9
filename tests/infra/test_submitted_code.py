"""What `ray job submit --working-dir .` takes along, by Ray's own packing."""

import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def taken(tmp_path_factory: pytest.TempPathFactory) -> set[str]:
    """The names in the package."""
    package = tmp_path_factory.mktemp("package") / "code.zip"
    create_package(str(ROOT), package, include_gitignore=True)
    with zipfile.ZipFile(package) as archive:
        return set(archive.namelist())


@pytest.mark.parametrize("package", ["vdm_core", "pipeline", "jobs"])
def test_every_module_and_preset_goes_along(package: str, taken: set[str]) -> None:
    """`.rayignore` drops folders of the project's root, not those of its packages."""
    files = [*(ROOT / package).rglob("*.py"), *(ROOT / package).rglob("*.yaml")]
    missing = {str(file.relative_to(ROOT)) for file in files} - taken
    assert len(files) > 10
    assert not missing


def test_what_nobody_needs_there_stays(taken: set[str]) -> None:
    """Data, runs, the environment and the tests would only make the package large."""
    first = {name.split("/")[0] for name in taken}
    assert not first & {".git", ".venv", "data", "datasets", "runs", "tests", "docs"}
