"""Tables of named columns, and maps, in CSV files, with errors that say where a file is at fault."""

from __future__ import annotations

import csv
import difflib
import io
import math
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..files import write_atomically
from ..names import printable
from ..value import refuse_masked, unmasked

_Path: TypeAlias = str | os.PathLike[str]
_SHOWN = 40  # characters of a faulty text that a message quotes


class DataError(ValueError):
    """A file or table that cannot be used as asked; the message says where it is at fault and what to do."""

    def __init__(self, message: str) -> None:
        super().__init__(printable(message))


class Table:
    """Named columns of equal length: read-only float64 arrays, each (rows,). Messages give the `source`.

    Raises DataError for columns that are not 1-D, not numbers or not equally long, and for no columns at all.
    """

    __slots__ = ("_columns", "_source")

    def __init__(self, columns: Mapping[str, ArrayLike], source: str = "table") -> None:
        self._source = source
        self._columns = {name: self._read_only(name, values) for name, values in columns.items()}
        lengths = {name: column.size for name, column in self._columns.items()}
        if len(set(lengths.values())) != 1:
            counts = ", ".join(f"{name!r}: {length}" for name, length in lengths.items()) or "none given"
            raise DataError(f"{source}: a table needs columns of one length, not {counts}")

    def _read_only(self, name: str, values: ArrayLike) -> NDArray[np.float64]:
        try:
            refuse_masked(values)
        except TypeError as error:
            raise DataError(f"{self._source}: column {name!r}: {error}") from None
        try:
            column = np.array(values, dtype=np.float64)
        except (TypeError, ValueError):
            raise DataError(f"{self._source}: column {name!r} holds something else than numbers") from None
        if column.ndim != 1:
            raise DataError(f"{self._source}: column {name!r} must be 1-D, not of shape {column.shape}")
        column.flags.writeable = False
        return column

    @property
    def source(self) -> str:
        """Where the numbers are from: a path, or what the maker of the table says."""
        return self._source

    @property
    def columns(self) -> tuple[str, ...]:
        """The names, in the order of the file."""
        return tuple(self._columns)

    def __len__(self) -> int:
        """The number of rows."""
        return next(iter(self._columns.values())).size

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __contains__(self, name: object) -> bool:
        return name in self._columns

    def __getitem__(self, name: str) -> NDArray[np.float64]:
        """The column, (rows,). Raises DataError for a name that is not there."""
        if name not in self._columns:
            raise _no_column(self._source, name, self.columns)
        return self._columns[name]

    def __repr__(self) -> str:
        return printable(f"Table({len(self)} rows of {_listed(self.columns)}; {self._source})")

    def select(self, rows: slice | ArrayLike) -> Table:
        """The table of some rows: a slice, row numbers (counted from 0) or a boolean mask."""
        chosen = rows if isinstance(rows, slice) else unmasked(rows, "select")
        return Table({name: column[chosen] for name, column in self._columns.items()}, self._source)


def read_table(path: _Path, columns: Sequence[str] | None = None, minimum_rows: int = 2) -> Table:
    """The columns of a CSV file with a header row: those named, in that order, or else all of them.

    An unnamed first column (row labels, as pandas writes them) is left out unless asked for as "". Fields are
    separated by commas, semicolons or tabs, whichever the header has. Columns left out may hold anything.
    Raises DataError, with the row as a spreadsheet counts it, for everything that is not a table of numbers.
    """
    (_, header), *rows = _records(path)
    wanted = _chosen(path, header, columns)
    if len(rows) < minimum_rows:
        raise DataError(
            f"{path}: data rows below the header: {len(rows)}, but at least {minimum_rows} are needed; "
            "is it the whole file?"
        )
    values = np.empty((len(wanted), len(rows)))
    advice = "correct it, or read other columns only"
    for i, (row, fields) in enumerate(rows):
        _check_width(path, row, fields, len(header), "the header")
        for j, (name, k) in enumerate(wanted.items()):
            values[j, i] = _number(fields[k], path, row, name, advice)
    return Table(dict(zip(wanted, values, strict=True)), str(path))


def read_map(path: _Path) -> NDArray[np.float64]:
    """The grid of numbers in a CSV file without a header, (rows, cols), in the order of the file.

    Fields are separated as in `read_table`. Raises DataError for everything that is not a grid of numbers.
    """
    records = _records(path)
    width = len(records[0][1])
    grid = np.empty((len(records), width))
    for i, (row, fields) in enumerate(records):
        _check_width(path, row, fields, width, "row 1")
        advice = "correct it" if i else "correct it, or read a file with a header with read_table"
        for j, text in enumerate(fields):
            grid[i, j] = _number(text, path, row, j + 1, advice)
    return grid


def write_table(path: _Path, table: Table) -> None:
    """Write a table so that `read_table` gives its numbers back; the file appears whole or not at all."""
    columns = [table[name].tolist() for name in table]
    _write(path, [table.columns, *zip(*columns, strict=True)])


def write_map(path: _Path, grid: ArrayLike) -> None:
    """Write a grid (rows, cols) so that `read_map` gives it back; the file appears whole or not at all.

    Raises DataError for an array that is not 2-D or is empty.
    """
    values = unmasked(grid, "write_map", np.float64)
    if values.ndim != 2 or not values.size:
        raise DataError(f"{path}: a map is a grid (rows, cols), not an array of shape {values.shape}")
    _write(path, values.tolist())


def _write(path: _Path, rows: Iterable[Sequence[Any]]) -> None:
    text = io.StringIO()
    csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n").writerows(rows)
    write_atomically(path, text.getvalue())


def _records(path: _Path) -> list[tuple[int, list[str]]]:
    """Each row's number, counted from 1, and its fields without surrounding spaces; at least one row."""
    text = _text(path)
    first = re.sub(r'"[^"]*"', "", text.partition("\n")[0])
    separator = next((s for s in ";\t" if s in first), ",")
    records: list[tuple[int, list[str]]] = []
    try:
        for row in csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True):
            if any("\n" in field for field in row):
                raise csv.Error("a quoted field runs over the end of its line")
            records.append((len(records) + 1, [field.strip() for field in row]))
    except csv.Error as error:
        raise DataError(f"{path}, row {len(records) + 1}: {error}; is a closing quote missing?") from None
    while records and not any(records[-1][1]) and len(records[-1][1]) < 2:
        records.pop()
    if not records:
        raise DataError(f"{path}: is empty; is this the right file?")
    return records


def _text(path: _Path) -> str:
    try:
        raw = Path(path).read_bytes()
    except FileNotFoundError:
        raise DataError(f"{path}: no such file, seen from {os.getcwd()}; correct the path") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror}); give the path of a CSV file") from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        row = error.object.count(b"\n", 0, error.start) + 1
        fault = error.object[error.start : error.end]
        raise DataError(f"{path}, row {row}: bytes {fault!r} are not UTF-8; save it as CSV UTF-8") from None


def _chosen(path: _Path, header: list[str], columns: Sequence[str] | None) -> dict[str, int]:
    """The names to read and their places among the fields."""
    names = [name for name in header if name]
    for name, count in Counter(names).items():
        if count > 1:
            raise DataError(f"{path}, row 1: has more than one column {_quoted(name)}; rename all but one")
    if not names or (columns is None and all(_parsed(name) is not None for name in names)):
        raise DataError(
            f"{path}, row 1: has {_quoted(names[0]) if names else 'nothing'} where column names belong; "
            "write a header above the numbers, or read a grid without one with read_map"
        )
    if columns is not None:
        wanted = [columns] if isinstance(columns, str) else columns
        for name in wanted:
            if name not in header:
                raise _no_column(path, name, header)
        return {name: header.index(name) for name in wanted}
    for k, name in enumerate(header):
        if k and not name:
            raise DataError(f"{path}, row 1: column {k + 1} has no name; name it, delete it or pick columns")
    return {name: k for k, name in enumerate(header) if name}


def _no_column(source: _Path, name: str, columns: Sequence[str]) -> DataError:
    near = difflib.get_close_matches(name.lower(), [column.lower() for column in columns], 1)
    guess = next((f"; did you mean {_quoted(column)}?" for column in columns if [column.lower()] == near), "")
    return DataError(f"{source}: no column {_quoted(name)}; it has {_listed(map(_quoted, columns))}{guess}")


def _check_width(path: _Path, row: int, fields: list[str], width: int, like: str) -> None:
    if len(fields) != width:
        advice = "look for a missing or extra separator" if fields else "delete the row or fill it in"
        raise DataError(f"{path}, row {row}: fields: {len(fields)}, but {width} in {like}; {advice}")


def _number(text: str, path: _Path, row: int, column: str | int, advice: str) -> float:
    number = _parsed(text)
    if number is not None and math.isfinite(number):
        return number
    if not text:
        problem = "is empty; fill it in or delete the row"
    elif number is not None:
        what = "missing" if math.isnan(number) else "infinite"
        problem = f"is {what} ({_quoted(text)}); fill it in or delete the row"
    elif _parsed(text.replace(",", ".")) is not None:
        problem = f"holds {_quoted(text)}; write decimals with a point"
    else:
        problem = f"holds the text {_quoted(text)} where a number belongs; {advice}"
    place = _quoted(column) if isinstance(column, str) else column
    raise DataError(f"{path}, row {row}, column {place}: {problem}")


def _parsed(text: str) -> float | None:
    try:
        return None if "_" in text else float(text)  # Python alone reads 1_000 as a number
    except ValueError:
        return None


def _quoted(text: str) -> str:
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "...")


def _listed(texts: Iterable[str]) -> str:
    """The first twenty, and that there are more."""
    first = list(islice(texts, 21))
    return ", ".join(first[:20]) + (", ..." if len(first) > 20 else "")
