"""Files of requests: every mistake is named with its column, row and value before work starts."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.errors import InputError
from pipeline.sampling.requests import digest, read_requests
from pipeline.storage import open_storage


@pytest.fixture
def read(tmp_path):
    """read(classes=…, column=[…], …): write a file of these columns and read it as requests."""

    def requests(classes=3, **columns):
        file = tmp_path / "requests.parquet"
        pq.write_table(pa.table(columns), file)
        return read_requests(
            open_storage(str(file)), classes=classes, guidance_scale=1.5, seed=4
        )  # fmt: skip

    return requests


GOOD = {"id": [3, 1], "class": [0, 2], "guidance_scale": [0.0, 2.5], "seed": [0, 2**63 - 1]}


def test_the_rows_are_those_of_the_file_in_its_order(read):
    rows = read(**GOOD).rows(0, 2)
    assert [column.tolist() for column in rows] == [[3, 1], [0, 2], [0, 2**63 - 1], [0.0, 2.5]]


def test_missing_scale_and_seed_are_the_jobs(read):
    rows = read(id=[8], **{"class": [1]}).rows(0, 1)
    assert (rows.scales.tolist(), rows.seeds.tolist()) == ([1.5], [4])
    assert read(classes=None, id=[8]).rows(0, 1).labels.tolist() == [-1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": [3, 3]}, r"row 1: id is 3 \(1 such rows\); give each id once"),
        ({"id": [-1, 3]}, "row 0: id is -1"),
        ({"id": [3, 2**56]}, "row 1: id is 72057594037927936"),
        ({"id": [3, None]}, "row 1: id is null"),
        ({"id": [3.0, 4.0]}, "column id holds double, not integers"),
        ({"id": None}, r"no column \['id'\]"),
        ({"class": None}, r"no column \['class'\]"),
        ({"class": [0, 3]}, "row 1: class is 3 .*give 0 to 2"),
        ({"class": [-1, 0]}, "row 0: class is -1"),
        ({"guidance_scale": [1.0, float("nan")]}, "row 1: guidance_scale is nan"),
        ({"guidance_scale": [float("inf"), 1.0]}, "row 0: guidance_scale is inf"),
        ({"guidance_scale": [-1.0, 1.0]}, "row 0: guidance_scale is -1.0"),
        ({"guidance_scale": ["1", "2"]}, "guidance_scale holds string, not numbers"),
        ({"seed": [0, -5]}, "row 1: seed is -5"),
        ({"seed": np.array([0, 2**63], np.uint64)}, "column seed"),
        ({"prompt": ["a", "b"]}, r"columns \['prompt'\], which mean nothing here"),
    ],
)
def test_a_mistake_is_named_with_column_row_and_value(read, change, message):
    columns = {name: values for name, values in (GOOD | change).items() if values is not None}
    with pytest.raises(InputError, match=message):
        read(**columns)


def test_classes_are_refused_where_the_model_knows_none(read):
    with pytest.raises(InputError, match=r"\['class'\].*the model knows no classes"):
        read(classes=None, **GOOD)


def test_no_file_no_parquet_and_no_rows_are_refused(tmp_path, read):
    place = open_storage(str(tmp_path / "nowhere.parquet"))
    with pytest.raises(InputError, match="there is no file"):
        read_requests(place, classes=3, guidance_scale=1.0, seed=0)
    place.write_bytes(b"id,class\n1,2\n")
    with pytest.raises(InputError, match="not a readable Parquet file"):
        read_requests(place, classes=3, guidance_scale=1.0, seed=0)
    with pytest.raises(InputError, match="has no rows"):
        read(id=pa.array([], pa.int64()), **{"class": pa.array([], pa.int64())})


def test_rows_beyond_memory_are_refused_unread(tmp_path):
    """A few kilobytes may hold a milliard of equal rows."""
    file = tmp_path / "requests.parquet"
    part = pa.table({"id": pa.array(np.zeros(2**20, np.int64))})
    with pq.ParquetWriter(file, part.schema) as writer:
        for _ in range(100):
            writer.write_table(part)
    assert file.stat().st_size < 2**20
    with pytest.raises(InputError, match="104,857,600 rows, and at most 100,000,000"):
        read_requests(open_storage(str(file)), classes=None, guidance_scale=1, seed=0)


def test_the_digest_is_of_what_is_asked_and_not_of_the_file(read):
    """Another order of columns or width of integers changes nothing, another value does."""
    base = digest(read(**GOOD))
    turned = dict(reversed(GOOD.items())) | {"class": np.array([0, 2], np.uint8)}
    assert digest(read(**turned)) == base
    assert digest(read(**(GOOD | {"seed": [0, 1]}))) != base
    assert digest(read(**(GOOD | {"id": [1, 3]}))) != base
