"""The state of a sample set on storage: whose folder it is, which shards are done, what may go."""

import json
from collections.abc import Callable

import numpy as np
import pytest

from pipeline.data.manifest import DATASET
from pipeline.data.writer import ShardSample, encode_shard
from pipeline.errors import InputError
from pipeline.sampling.output_folder import (
    PLAN,
    ROWS,
    claim,
    delete_temporary,
    finished_shards,
    plan_digest,
)
from pipeline.sampling.rows import PlannedRows
from pipeline.sampling.shard_rows import (
    FinishedShard,
    finished_bytes,
    read_finished,
    read_sample_rows,
    sample_rows,
)
from pipeline.storage import Location, open_storage

ONE, OTHER = {"steps": 250, "seed": 0}, {"steps": 9, "seed": 0}


@pytest.fixture
def output(tmp_path) -> Location:
    return open_storage(str(tmp_path / "samples"))


@pytest.fixture
def write(output) -> Callable[..., FinishedShard]:
    """write(0, "plan's digest"): write a shard of two samples and what says that it is done."""

    def shard(number: int, plan: str = "p") -> FinishedShard:
        name = f"shard-{number:06d}"
        samples = [ShardSample(f"{number}-{k}", b"image", "png", k) for k in (1, 0)]
        encoded = encode_shard(f"{name}.tar", samples)
        (output / f"{name}.tar").write_bytes(encoded.data)
        ids = np.array([2 * number, 2 * number + 1])
        rows = PlannedRows(ids, np.array([1, 0]), ids + 5, np.array([2.0, 3.5]))
        lines = sample_rows(rows, f"{name}.tar", encoded.extents, ["a", "b"])
        finished = FinishedShard(encoded.row, plan, "code x", 1.5)
        (output / ROWS / f"{name}.parquet").write_bytes(finished_bytes(finished, lines))
        return finished

    return shard


def test_a_changed_request_is_refused_with_both_values(output):
    """Samples of two requests never mix, and nothing of the first is touched."""
    claim(output, ONE, overwrite=False)
    before = (output / PLAN).read_bytes()
    with pytest.raises(InputError, match=r"steps: 250 there, 9 now") as refused:
        claim(output, OTHER, overwrite=False)
    assert "seed" not in str(refused.value)
    assert "overwrite=true" in str(refused.value)
    assert (output / PLAN).read_bytes() == before


def test_the_same_request_keeps_what_is_done_with_or_without_overwrite(output, write):
    digest = claim(output, ONE, overwrite=False)
    write(0, digest)
    assert claim(output, ONE, overwrite=True) == digest == plan_digest(output)
    assert list(finished_shards(output, digest)) == ["shard-000000.tar"]


def test_overwrite_deletes_samples_of_another_request(output, write):
    write(0, claim(output, ONE, overwrite=False))
    (output / DATASET).write_bytes(b"{}")
    claim(output, OTHER, overwrite=True)
    assert output.files(recursive=True) == [PLAN]
    assert json.loads((output / PLAN).read_bytes()) == OTHER


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_folder_with_something_else_is_refused_and_left_alone(output, overwrite):
    """`overwrite` is no permission to delete what this job has not written."""
    (output / "thesis.tex").write_bytes(b"x")
    with pytest.raises(InputError, match="not empty and holds no sample set"):
        claim(output, ONE, overwrite=overwrite)
    assert output.files() == ["thesis.tex"]


def test_a_damaged_plan_is_an_input_error(output):
    (output / PLAN).write_bytes(b"{")
    with pytest.raises(InputError, match="damaged"):
        claim(output, ONE, overwrite=False)


def test_a_shard_counts_when_its_row_is_there_and_its_size_right(output, write):
    """What a kill can leave is not taken for a finished shard: no row, half a row, half a tar.

    Nor is a shard of another plan, written late by an actor of a job that has lost the folder.
    """
    for k in range(4):
        write(k)
    write(4, "another plan")
    (output / ROWS / "shard-000001.parquet").delete()
    (output / ROWS / "shard-000001.parquet.0123abcd.tmp").write_bytes(b"PAR1")
    (output / "shard-000002.tar").write_bytes(b"short")
    (output / "shard-000003.tar").delete()
    assert list(finished_shards(output, "p")) == ["shard-000000.tar"]


def test_a_damaged_row_is_an_input_error_that_names_it(output, write):
    write(0)
    (output / ROWS / "shard-000000.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match=r"shard-000000\.parquet is damaged"):
        finished_shards(output, "p")


def test_what_killed_jobs_left_half_written_is_deleted(output, write):
    write(0)
    (output / "shard-000001.tar.0123abcd.tmp").write_bytes(b"half")
    (output / ROWS / "shard-000001.parquet.0123abcd.tmp").write_bytes(b"half")
    delete_temporary(output)
    assert output.files(recursive=True) == [f"{ROWS}/shard-000000.parquet", "shard-000000.tar"]


def test_what_a_shard_says_of_itself_survives_the_journey(output, write):
    finished = write(3)
    file = output / ROWS / "shard-000003.parquet"
    assert read_finished(file) == finished
    first, second = read_sample_rows(file).to_pylist()
    assert first == {
        "id": 6, "class": 1, "seed": 11, "guidance_scale": 2.0, "shard": "shard-000003.tar",
        "offset": 0, "bytes": second["offset"], "sha256": "a",
    }  # fmt: skip
    assert (second["id"], second["guidance_scale"], second["sha256"]) == (7, 3.5, "b")
