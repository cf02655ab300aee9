"""Which code made a result: a digest of the sources, which a submitted job has and git may not."""

import hashlib
from functools import cache
from pathlib import Path

_PROJECT = Path(__file__).resolve().parents[1]


@cache
def code_version() -> str:
    """The first 16 hex digits of the SHA-256 over the sources of `vdm_core` and `pipeline`."""
    sha256 = hashlib.sha256()
    for package in ("vdm_core", "pipeline"):
        for path in sorted((_PROJECT / package).rglob("*.py")):
            name, content = path.relative_to(_PROJECT).as_posix(), path.read_bytes()
            sha256.update(f"{name} {len(content)} ".encode() + content)
    return sha256.hexdigest()[:16]
