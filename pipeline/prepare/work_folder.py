"""What an unfinished preparation keeps beside its shards, so that it can be continued.

preparing/survey.json      what the survey found; while it is there, the folder is ours
preparing/pool-00000.json  the manifest rows of a pool, written after its shards
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from pipeline.data.manifest import ShardRow
from pipeline.errors import InputError
from pipeline.prepare.source_survey import Surveyed
from pipeline.storage import Location, is_temporary

PREPARING = "preparing"
_SURVEY = "survey.json"


@dataclass(frozen=True)
class Packed:
    """The shards of one pool."""

    identity: str
    rows: tuple[ShardRow, ...]


@dataclass(frozen=True)
class _SurveyFile:
    identity: str
    found: Surveyed


_SURVEY_JSON = TypeAdapter(_SurveyFile)
_PACKED_JSON = TypeAdapter(Packed)


@dataclass(frozen=True)
class WorkFolder:
    """The state of one split's preparation; `identity` stands for configuration and source."""

    folder: Location
    identity: str

    @property
    def _files(self) -> Location:
        return self.folder / PREPARING

    def survey(self) -> Surveyed | None:
        """The survey that an interrupted run of the same identity kept."""
        where = self._files / _SURVEY
        if where.size() is None:
            return None
        file = read_kept(_SURVEY_JSON, where, f"empty {self.folder} to begin anew")
        return file.found if file.identity == self.identity else None

    def begin(self, found: Surveyed) -> None:
        """Claim the folder."""
        content = _SURVEY_JSON.dump_json(_SurveyFile(self.identity, found))
        (self._files / _SURVEY).write_bytes(content)

    def finish(self, pool: int, rows: list[ShardRow]) -> Packed:
        """Record that the shards of a pool are written."""
        packed = Packed(self.identity, tuple(rows))
        (self._files / f"pool-{pool:05d}.json").write_bytes(_PACKED_JSON.dump_json(packed))
        return packed

    def finished(self) -> dict[int, Packed]:
        """The pools that are packed and still whole."""
        done = {}
        for name in self._files.files():
            if name.startswith("pool-") and not is_temporary(name):
                packed = read_kept(_PACKED_JSON, self._files / name, "delete it")
                if packed.identity == self.identity and self._whole(packed):
                    done[int(name[5:10])] = packed
        return done

    def _whole(self, packed: Packed) -> bool:
        sizes = self.folder.sizes([row.shard for row in packed.rows])
        return sizes == [row.bytes for row in packed.rows]


T = TypeVar("T")


def read_kept(form: TypeAdapter[T], file: Location, remedy: str) -> T:
    """What a run kept in a file. Raises InputError, with the remedy, where it is damaged."""
    try:
        return form.validate_json(file.read_bytes())
    except ValidationError as error:
        raise InputError(f"{file} is damaged ({error}); {remedy}") from None


def is_claimed(folder: Location) -> bool:
    """Whether an unfinished preparation left its state in `folder`."""
    return (folder / PREPARING / _SURVEY).size() is not None
