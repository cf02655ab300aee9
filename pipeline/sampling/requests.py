"""A Parquet file of requests, read and checked whole before any sample is drawn."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from pipeline.errors import InputError
from pipeline.sampling.rows import HeldRows, PlannedRows
from pipeline.storage import Location
from vdm_core.labels import NO_LABEL

_COLUMNS = ("id", "class", "guidance_scale", "seed")
_LARGEST_ID = 2**56  # of the random numbers' counter
_MOST_ROWS = 100_000_000  # 32 bytes each


def read_requests(
    file: Location, *, classes: int | None, guidance_scale: float, seed: int
) -> HeldRows:
    """The requests of a Parquet file, with the given values for the columns that it leaves out.

    `classes`: how many the model (or its classifier) knows; None for none.

    Raises:
        InputError: no readable file, no rows, a missing or unknown column, one of another type or
            with nulls, an id that is repeated, a value out of range. Names column, row and value.
    """
    table = _read(file)
    _check_names(file, table.column_names, labelled=classes is not None)
    rows = table.num_rows
    columns = PlannedRows(
        ids=_integers(file, table, "id"),
        labels=np.full(rows, NO_LABEL, np.int64)
        if classes is None
        else _integers(file, table, "class"),
        seeds=_integers(file, table, "seed")
        if "seed" in table.column_names
        else np.full(rows, seed, np.int64),
        scales=_numbers(file, table, "guidance_scale")
        if "guidance_scale" in table.column_names
        else np.full(rows, guidance_scale),
    )
    _check_values(file, columns, classes)
    return HeldRows(columns)


def digest(requests: HeldRows) -> str:
    """SHA-256 of what is asked, whatever the file's own form."""
    sha256 = hashlib.sha256()
    for column in requests.columns:
        sha256.update(column.tobytes())
    return sha256.hexdigest()


def _read(file: Location) -> pa.Table:
    if file.size() is None:
        raise InputError(f"requests: there is no file {file}; check the path")
    try:
        with file.filesystem.open_input_file(file.path) as handle:
            rows = pq.ParquetFile(handle).metadata.num_rows
            if rows > _MOST_ROWS:
                raise InputError(
                    f"requests: {file} has {rows:,} rows, and at most {_MOST_ROWS:,} are held in "
                    "memory; cut it into several sample sets"
                )
            table = pq.read_table(handle)
    except (OSError, pa.ArrowException) as error:
        raise InputError(f"requests: {file} is not a readable Parquet file: {error}") from error
    if not table.num_rows:
        raise InputError(f"requests: {file} has no rows")
    return table


def _check_names(file: Location, names: list[str], *, labelled: bool) -> None:
    needed = {"id", "class"} if labelled else {"id"}
    known = set(_COLUMNS) if labelled else set(_COLUMNS) - {"class"}
    if missing := needed - set(names):
        raise InputError(f"requests: {file} has no column {sorted(missing)}, only {names}")
    if unknown := set(names) - known:
        why = "" if labelled else " (the model knows no classes)"
        raise InputError(
            f"requests: {file} has columns {sorted(unknown)}, which mean nothing here{why}; "
            f"known are {sorted(known)}"
        )


def _column(file: Location, table: pa.Table, name: str) -> pa.ChunkedArray:
    column = table[name]
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy()))
        raise InputError(f"requests: {file} row {row}: {name} is null; fill it in")
    return column


def _integers(file: Location, table: pa.Table, name: str) -> NDArray[np.int64]:
    column = _column(file, table, name)
    if not pa.types.is_integer(column.type):
        raise InputError(f"requests: {file}: column {name} holds {column.type}, not integers")
    try:
        return column.cast(pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise InputError(f"requests: {file}: column {name}: {error}") from None


def _numbers(file: Location, table: pa.Table, name: str) -> NDArray[np.float64]:
    column = _column(file, table, name)
    if not (pa.types.is_integer(column.type) or pa.types.is_floating(column.type)):
        raise InputError(f"requests: {file}: column {name} holds {column.type}, not numbers")
    return column.cast(pa.float64(), safe=False).to_numpy()


def _check_values(file: Location, rows: PlannedRows, classes: int | None) -> None:
    limits = "finite numbers from 0 up"
    _refuse(file, "id", rows.ids, (rows.ids < 0) | (rows.ids >= _LARGEST_ID), "0 to 2^56 - 1")
    _refuse(file, "seed", rows.seeds, rows.seeds < 0, "0 to 2^63 - 1")
    bad_scales = ~np.isfinite(rows.scales) | (rows.scales < 0)
    _refuse(file, "guidance_scale", rows.scales, bad_scales, limits)
    if classes is not None:
        wrong = (rows.labels < 0) | (rows.labels >= classes)
        _refuse(file, "class", rows.labels, wrong, f"0 to {classes - 1}")
    order = np.argsort(rows.ids, kind="stable")
    repeated = np.zeros(len(order), np.bool_)
    repeated[order[1:]] = np.diff(rows.ids[order]) == 0
    _refuse(file, "id", rows.ids, repeated, "each id once")


def _refuse(
    file: Location,
    name: str,
    values: NDArray[np.int64] | NDArray[np.float64],
    wrong: NDArray[np.bool_],
    wanted: str,
) -> None:
    if wrong.any():
        row = int(np.argmax(wrong))
        raise InputError(
            f"requests: {file} row {row}: {name} is {values[row]} ({int(wrong.sum())} such rows); "
            f"give {wanted}"
        )
