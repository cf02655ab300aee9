"""Write the locks that the images install: exact versions, each with the SHA-256 of its archive.

`python infra/lock.py` (or `make lock`) asks the package index for what `constraints.txt` allows and
writes `infra/locks/*.txt`. The digests are those of the archives for this Python and platform: run
it where the images run, Python 3.11 on Linux x86-64. torch and what comes with it are left out:
their archives differ from build to build (CPU, CUDA), and the Dockerfile says where they come from.
"""

import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOCKS = ROOT / "infra/locks"
IMAGES = {"cluster": [".[fast]"], "mlflow": ["mlflow[auth]", "psycopg[binary]", "boto3"]}
BUILD_DEPENDENT = re.compile(r"torch|triton|setuptools|nvidia-.*|cuda-.*")


def normalised(name: str) -> str:
    """A package's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def resolved(requirements: list[str]) -> list[dict[str, Any]]:
    """What pip would install for `requirements` in an empty environment, without this project."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.json"
        command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed"]
        command += ["--quiet", "-c", "constraints.txt", "--report", str(report), *requirements]
        subprocess.run(command, cwd=ROOT, check=True)
        installs: list[dict[str, Any]] = json.loads(report.read_text(encoding="utf-8"))["install"]
    return [item for item in installs if "archive_info" in item["download_info"]]


def lock(requirements: list[str]) -> str:
    """The lock's text, a line for each package: `name==version --hash=sha256:digest`."""
    lines = []
    for item in resolved(requirements):
        name = normalised(item["metadata"]["name"])
        if not BUILD_DEPENDENT.fullmatch(name):
            digest = item["download_info"]["archive_info"]["hashes"]["sha256"]
            lines.append(f"{name}=={item['metadata']['version']} --hash=sha256:{digest}\n")
    return "# python infra/lock.py; Python 3.11, Linux x86-64\n" + "".join(sorted(lines))


if __name__ == "__main__":
    LOCKS.mkdir(exist_ok=True)
    for image, requirements in IMAGES.items():
        (LOCKS / f"{image}.txt").write_text(lock(requirements), encoding="utf-8")
