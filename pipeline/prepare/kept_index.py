"""What an unfinished indexing keeps, so that it can be continued: a file for each finished tar.

    preparing/<digest of the name>.json

It stands for the tar as long as that has the same size and time of last change.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from pydantic import Base64Bytes, TypeAdapter

from pipeline.data.manifest import ShardRow
from pipeline.prepare.source_survey import Surveyed
from pipeline.prepare.work_folder import PREPARING, read_kept
from pipeline.storage import Location


@dataclass
class Indexed(Surveyed):
    """A surveyed tar: its manifest row, and hashes of its keys, which are a tenth of their size."""

    row: ShardRow | None = None  # None: it holds no samples
    key_hashes: Base64Bytes = b""  # uint64 each, in the order of the samples


@dataclass(frozen=True)
class _File:
    identity: str
    found: Indexed


_JSON = TypeAdapter(_File)


@dataclass(frozen=True)
class KeptIndex:
    """The finished tars below `folder`; `identity` stands for the configuration."""

    folder: Location
    identity: str

    def read(self, tar: Location) -> Indexed | None:
        """What was found in `tar`, if that was kept and the tar is what it was."""
        where = self._file(tar)
        if where.size() is None:
            return None
        file = read_kept(_JSON, where, "delete it")
        return file.found if file.identity == self._identity(tar) else None

    def write(self, tar: Location, found: Indexed) -> None:
        """Keep what was found in `tar`."""
        self._file(tar).write_bytes(_JSON.dump_json(_File(self._identity(tar), found)))

    def _file(self, tar: Location) -> Location:
        digest = hashlib.sha256(tar.url.encode()).hexdigest()
        return self.folder / PREPARING / f"{digest[:32]}.json"

    def _identity(self, tar: Location) -> str:
        return f"{self.identity} {tar.url} {tar.version()}"
