"""Tables and maps from files, scaling, splits, mini-batches and the synthetic reservoir."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from autograd_geo.data import (
    DataError,
    DataLoader,
    MinMaxScaler,
    Reservoir,
    Table,
    from_one_hot,
    one_hot,
    read_map,
    read_table,
    sample_rows,
    sample_wells,
    synthetic_reservoir,
    train_test_split,
    write_map,
    write_table,
)

Floats = NDArray[np.float64]
NUMBERS = st.floats(-1e9, 1e9)
WELLS = ",X,Y,AI\n0,1.5,2,3000\n1,2.5,3,4000\n2,3.5,4,5000\n"


def file(folder: Path, content: str | bytes, name: str = "wells.csv") -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


# --- reading tables ---


def test_read_table(tmp_path: Path) -> None:
    path = file(tmp_path, WELLS)
    table = read_table(path)
    assert table.columns == tuple(table) == ("X", "Y", "AI")
    assert len(table) == 3 and table.source == str(path)
    assert table["AI"].dtype == np.float64 and table["AI"].tolist() == [3000, 4000, 5000]
    assert read_table(str(path), ["AI", "X"]).columns == ("AI", "X")
    assert read_table(path, ["", "X"])[""].tolist() == [0, 1, 2]
    assert read_table(path, "AI").columns == ("AI",)
    assert "X" in table and "Z" not in table
    assert repr(table) == f"Table(3 rows of X, Y, AI; {path})"


@pytest.mark.parametrize(
    "content",
    [
        "X,AI\n1,-2.5e3\n3,4\n",
        "\ufeffX,AI\n1,-2.5e3\n3,4\n",
        "X,AI\r\n1,-2.5e3\r\n3,4\r\n",
        "X;AI\n1;-2.5e3\n3;4",
        "X\tAI\n1\t-2.5e3\n3\t4\n",
        " X , AI \n 1 ,  -2.5e3\n3 , 4 \n",
        '"X" , "AI"\n1,"-2.5e3"\n"3" ,4\n',
        "X,AI\n1,-2.5e3\n3,4\n\n\r\n  \n",
    ],
    ids=["plain", "bom", "crlf", "semicolon", "tab", "spaces", "quotes", "blank end"],
)
def test_dialects(tmp_path: Path, content: str) -> None:
    table = read_table(file(tmp_path, content))
    assert {name: table[name].tolist() for name in table} == {"X": [1, 3], "AI": [-2500, 4]}


def test_separator_is_not_one_inside_a_quoted_name(tmp_path: Path) -> None:
    assert read_table(file(tmp_path, '"AI; scaled",X\n1,2\n3,4\n')).columns == ("AI; scaled", "X")
    assert read_table(file(tmp_path, '"AI, scaled";X\n1;2\n3;4\n')).columns == ("AI, scaled", "X")


def test_columns_left_out_may_hold_anything(tmp_path: Path) -> None:
    table = read_table(file(tmp_path, "Well,AI,Note\nA-1,1,\nA-2,2,dry\n"), ["AI"])
    assert table["AI"].tolist() == [1, 2]


BAD_TABLES = {
    "empty": ("", None, "is empty"),
    "blank lines": ("\n\r\n \n", None, "is empty"),
    "header only": ("X,AI\n", None, "data rows below the header: 0, but at least 2"),
    "one row": ("X,AI\n1,2\n", None, "data rows below the header: 1, but at least 2"),
    "blank header": ("\nX,AI\n1,2\n3,4\n", ["AI"], "row 1: has nothing where column names belong"),
    "numbers as header": ("1.5,2\n1,2\n3,4\n", None, "row 1: has '1.5' where column names belong.*read_map"),
    "duplicate": ("X,AI,X\n1,2,3\n4,5,6\n", ["AI"], "row 1: has more than one column 'X'; rename"),
    "unnamed": ("X,AI,\n1,2,3\n4,5,6\n", None, "row 1: column 3 has no name"),
    "unknown": (WELLS, ["Depth"], "no column 'Depth'; it has '', 'X', 'Y', 'AI'$"),
    "misspelt": ("Porosity,AI\n1,2\n3,4\n", ["porosty"], "no column 'porosty'.*did you mean 'Porosity'"),
    "empty cell": ("X,AI\n1,2\n3, \n", None, "row 3, column 'AI': is empty; fill it in or delete the row"),
    "nan": ("X,AI\n1,NaN\n3,4\n", None, "row 2, column 'AI': is missing .'NaN'.; fill it in"),
    "infinity": ("X,AI\n1,2\n-inf,4\n", None, "row 3, column 'X': is infinite .'-inf'."),
    "overflow": ("X,AI\n1,2\n1e999,4\n", None, "row 3, column 'X': is infinite .'1e999'."),
    "text": ("X,AI\n1,2\nsand,4\n", None, "row 3, column 'X': holds the text 'sand' where a number belongs"),
    "underscore": ("X,AI\n1,2\n1_000,4\n", None, "row 3, column 'X': holds the text '1_000'"),
    "decimal comma": ("X;AI\n1;2\n0,22;4\n", None, "row 3, column 'X': holds '0,22'; write decimals with"),
    "long text": (f"X,AI\n1,2\n{'a' * 999},4\n", None, f"holds the text '{'a' * 40}...' where"),
    "short row": ("X,AI\n1,2\n3\n5,6\n", None, "row 3: fields: 1, but 2 in the header; look for a missing"),
    "long row": ("X,AI\n1,2\n3,4,5\n", ["X"], "row 3: fields: 3, but 2 in the header"),
    "blank row": ("X,AI\n1,2\n\n5,6\n", None, "row 3: fields: 0, but 2 in the header; delete the row"),
    "after blank row": ("X\n1\n\n5\n", None, "row 3: fields: 0"),
    "open quote": ('X,AI\n1,2\n3,"4\n5,6\n', ["X"], "row 3: a quoted field runs over the end of its line"),
    "huge field": (f'X,AI\n1,2\n3,"{"4" * 200_000}"\n', None, "row 3: field larger than field limit"),
    "latin-1": ("X,AI\n1,2\n3,4\xb5\n".encode("latin-1"), None, r"row 3: bytes b'\\xb5' are not UTF-8"),
    "utf-16": ("X,AI\n1,2\n3,4\n".encode("utf-16"), None, "row 1: bytes .* are not UTF-8; save it as"),
}


@pytest.mark.parametrize(("content", "columns", "message"), BAD_TABLES.values(), ids=BAD_TABLES)
def test_bad_table(tmp_path: Path, content: str | bytes, columns: list[str] | None, message: str) -> None:
    path = file(tmp_path, content)
    with pytest.raises(DataError, match=message) as caught:
        read_table(path, columns)
    assert str(caught.value).startswith(str(path))


def test_no_such_file(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"missing.csv: no such file, seen from .*; correct the path"):
        read_table(tmp_path / "missing.csv")
    with pytest.raises(DataError, match=r"cannot be read .*; give the path of a CSV file"):
        read_table(tmp_path)


def test_minimum_rows(tmp_path: Path) -> None:
    assert len(read_table(file(tmp_path, "X,AI\n1,2\n"), minimum_rows=1)) == 1
    assert len(read_table(file(tmp_path, "X,AI\n"), minimum_rows=0)) == 0
    with pytest.raises(DataError, match="at least 4"):
        read_table(file(tmp_path, WELLS), minimum_rows=4)


# --- tables in memory and writing ---


def test_table_is_immutable() -> None:
    values = np.array([1.0, 2.0])
    table = Table({"X": values}, "here")
    values[0] = 9
    assert table["X"].tolist() == [1, 2]
    with pytest.raises(ValueError, match="read-only"):
        table["X"][0] = 5
    for attribute in ("source", "columns", "other"):
        with pytest.raises(AttributeError):
            setattr(table, attribute, "there")
    with pytest.raises(TypeError):
        table["X"] = values  # type: ignore[index]


def test_table_select() -> None:
    table = Table({"X": [1, 2, 3, 4], "AI": [10, 20, 30, 40]}, "here")
    for rows in ([2, 0], np.array([2, 0])):
        assert table.select(rows)["AI"].tolist() == [30, 10]
    assert table.select(table["X"] > 2)["AI"].tolist() == [30, 40]
    assert table.select(slice(1, 3))["X"].tolist() == [2, 3]
    assert table.select(slice(0)).source == "here" and len(table.select(slice(0))) == 0
    with pytest.raises(IndexError):
        table.select([4])


def test_bad_tables_in_memory() -> None:
    with pytest.raises(DataError, match="here: no column 'ai'; it has 'X', 'AI'; did you mean 'AI'"):
        Table({"X": [1], "AI": [2]}, "here")["ai"]
    with pytest.raises(DataError, match="columns of one length, not 'X': 1, 'AI': 2"):
        Table({"X": [1], "AI": [2, 3]})
    with pytest.raises(DataError, match="none given"):
        Table({})
    with pytest.raises(DataError, match=r"'X' must be 1-D, not of shape \(1, 2\)"):
        Table({"X": [[1, 2]]})
    with pytest.raises(DataError, match="'X' holds something else than numbers"):
        Table({"X": ["sand"]})


NAMES = st.text("aäZ0 ,;\"'\t", min_size=1).map(lambda name: f"x{name}x")
TABLES = st.integers(2, 5).flatmap(
    lambda rows: st.dictionaries(
        NAMES,
        st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=rows, max_size=rows),
        min_size=1,
        max_size=4,
    )
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(TABLES)
def test_table_round_trip(tmp_path: Path, columns: dict[str, list[float]]) -> None:
    path = tmp_path / "table.csv"
    write_table(path, Table(columns))
    table = read_table(path)
    assert {name: table[name].tolist() for name in table} == columns
    assert os.listdir(tmp_path) == ["table.csv"]


def test_write_leaves_the_old_file_on_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, WELLS)

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_table(path, Table({"X": [1, 2]}))
    assert path.read_text() == WELLS and os.listdir(tmp_path) == ["wells.csv"]


# --- maps ---


@pytest.mark.parametrize(
    "content",
    ["1,2,3\n4,5,6\n", "\ufeff1;2;3\r\n4;5;6", " 1\t2\t3\n4\t5\t 6 \n\n"],
    ids=["comma", "semi", "tab"],
)
def test_read_map(tmp_path: Path, content: str) -> None:
    grid = read_map(file(tmp_path, content))
    assert grid.dtype == np.float64 and grid.tolist() == [[1, 2, 3], [4, 5, 6]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("X,AI\n1,2\n", "row 1, column 1: holds the text 'X'.*read_table"),
        ("1,2\n3,four\n", "row 2, column 2: holds the text 'four' where a number belongs; correct it$"),
        ("1,2\n3\n", "row 2: fields: 1, but 2 in row 1"),
        ("1,2\n3,\n", "row 2, column 2: is empty"),
        ("1,2\nnan,4\n", "row 2, column 1: is missing"),
        ("0,1;0,2\n", "row 1, column 1: holds '0,1'; write decimals with a point"),
        (b"1,2\n\xff,4\n", "row 2: bytes"),
    ],
)
def test_bad_map(tmp_path: Path, content: str | bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_map(file(tmp_path, content))


def test_map_round_trip(tmp_path: Path) -> None:
    grid = np.array([[0.1, 1 / 3], [1e-300, -2.5e17], [5, 6]])
    write_map(tmp_path / "map.csv", grid)
    assert np.array_equal(read_map(tmp_path / "map.csv"), grid)
    for wrong in ([1.0, 2.0], np.empty((0, 3))):
        with pytest.raises(DataError, match="a map is a grid"):
            write_map(tmp_path / "wrong.csv", wrong)


# --- scaling ---

COLUMNS = st.integers(1, 3).flatmap(
    lambda features: st.lists(st.lists(NUMBERS, min_size=features, max_size=features), min_size=1, max_size=20)
)


@settings(deadline=None)
@given(COLUMNS, NUMBERS, st.floats(1e-3, 1e3))
def test_scaler_round_trip(rows: list[list[float]], low: float, width: float) -> None:
    x = np.array(rows)
    scaler = MinMaxScaler((low, low + width))
    scaled = scaler.fit_transform(x)
    size = max(abs(low), abs(low + width))
    assert low - 1e-15 * size <= scaled.min() and scaled.max() <= low + width + 1e-15 * size
    assert scaler.data_min_.tolist() == x.min(axis=0).tolist()
    assert scaler.data_max_.tolist() == x.max(axis=0).tolist()
    # The image rounds to a few parts in 2**52 of the size of the range, so x comes back to that of its span.
    tolerance = 1e-15 * (np.abs(x).max() + np.ptp(x) * size / width)
    back = scaler.inverse_transform(scaled)
    assert np.abs(back - x).max() <= tolerance
    constant = x.min(axis=0) == x.max(axis=0)
    assert np.array_equal(back[:, constant], x[:, constant])


def test_scaler_ends_and_middle() -> None:
    x = np.array([[0.1, 7.0, 1e-3], [0.3, 7.0, 2e-3], [0.7, 7.0, 9e-3]])
    scaled = MinMaxScaler().fit_transform(x)
    assert scaled[0].tolist() == [-1, 0, -1] and scaled[2].tolist() == [1, 0, 1]
    assert scaled[1, 0] == pytest.approx(2 * (0.3 - 0.1) / 0.6 - 1)
    assert MinMaxScaler((0, 10)).fit_transform([3, 3]).tolist() == [5, 5]


def test_scaler_fitted_on_one_dimension_scales_any_shape() -> None:
    scaler = MinMaxScaler().fit([2.0, 4.0])
    assert scaler.data_min_ == 2 and scaler.data_max_ == 4
    assert scaler.transform(3.5) == 0.5
    assert scaler.transform([[2, 3], [4, 5]]).tolist() == [[-1, 0], [1, 2]]
    assert scaler.inverse_transform(np.array([[-1.0], [2.0]])).tolist() == [[2], [5]]


@pytest.mark.parametrize("x", [[1.0, 2.0], [[1.0, 5.0], [2.0, 9.0]]])
def test_scaler_keeps_float32(x: list[Any]) -> None:
    single = np.array(x, dtype=np.float32)
    scaler = MinMaxScaler().fit(x)
    assert scaler.transform(single).dtype == scaler.inverse_transform(single).dtype == np.float32
    assert scaler.transform(single.astype(np.int64)).dtype == np.float64


class Recorded:
    """A number that writes down what is done to it and cannot become an array."""

    shape = ()

    def __init__(self, value: float, tape: list[str]) -> None:
        self.value, self.tape = value, tape

    def __array__(self, *_: object, **__: object) -> Floats:
        raise AssertionError("a recorded number was turned into an array")

    def _new(self, name: str, value: Any) -> Recorded:
        self.tape.append(name)
        return Recorded(float(value), self.tape)

    def __add__(self, other: Any) -> Recorded:
        return self._new("+", self.value + other)

    def __sub__(self, other: Any) -> Recorded:
        return self._new("-", self.value - other)

    def __mul__(self, other: Any) -> Recorded:
        return self._new("*", self.value * other)

    def __truediv__(self, other: Any) -> Recorded:
        return self._new("/", self.value / other)


def test_scaler_is_plain_arithmetic_on_its_argument() -> None:
    tape: list[str] = []
    scaler = MinMaxScaler().fit([2.0, 4.0])
    scaled = scaler.transform(Recorded(3.5, tape))
    assert isinstance(scaled, Recorded) and scaled.value == 0.5
    assert scaler.inverse_transform(scaled).value == 3.5
    assert tape == ["-", "/", "*", "+", "-", "/", "*", "+"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ([1.0, math.nan], r"finite numbers, but at \(1,\) there is nan"),
        ([[1.0, 2.0], [math.inf, 3.0]], r"at \(1, 0\) there is inf"),
        ([], r"not \(0,\)"),
        (np.empty((0, 2)), r"not \(0, 2\)"),
        (np.empty((3, 0)), r"not \(3, 0\)"),
        (5.0, r"not \(\)"),
        (np.zeros((2, 2, 2)), r"not \(2, 2, 2\)"),
    ],
)
def test_bad_fit_leaves_the_scaler_as_it_was(x: Any, message: str) -> None:
    scaler = MinMaxScaler().fit([2.0, 4.0])
    with pytest.raises(ValueError, match=message):
        scaler.fit(x)
    assert scaler.transform(4.0) == 1


def test_scaler_misuse() -> None:
    for use in (MinMaxScaler().transform, MinMaxScaler().inverse_transform):
        with pytest.raises(ValueError, match="call fit first"):
            use([1.0])
    scaler = MinMaxScaler().fit([[1.0, 2.0], [3.0, 4.0]])
    for x in ([1.0, 2.0, 3.0], [[1.0]], 1.0, np.zeros((2, 1))):
        with pytest.raises(ValueError, match=r"x needs shape \(\.\.\., 2\)"):
            scaler.transform(x)
    for feature_range in ((1, 1), (2, 1), (0, math.inf), (math.nan, 1)):
        with pytest.raises(ValueError, match="feature_range"):
            MinMaxScaler(feature_range)


@settings(deadline=None)
@given(st.lists(st.integers(0, 6), min_size=1))
def test_one_hot_round_trip(labels: list[int]) -> None:
    rows = one_hot(labels)
    assert rows.shape == (len(labels), max(labels) + 1)
    assert (rows.sum(axis=1) == 1).all() and set(rows.ravel()) <= {0.0, 1.0}
    assert from_one_hot(rows).tolist() == labels
    assert one_hot(labels, 9).shape == (len(labels), 9)


def test_one_hot_misuse() -> None:
    assert one_hot([], 3).shape == (0, 3)
    wrong: list[tuple[Any, int | None, str]] = [
        ([0, 1.5], None, r"labels\[1\] is 1.5, not a whole number"),
        ([0, -1], None, r"labels\[1\] is -1.0, not a whole number"),
        ([math.nan], None, "is nan, not a whole number"),
        ([math.inf], None, "is inf, not a whole number"),
        ([2, 3], 3, r"labels\[1\] is 3.0, not a whole number >= 0 and < 3"),
        ([[0]], 3, r"1-D, not of shape \(1, 1\)"),
        ([], None, "give classes"),
    ]
    for labels, classes, message in wrong:
        with pytest.raises(ValueError, match=message):
            one_hot(labels, classes)
    with pytest.raises(ValueError, match=r"shape \(n, classes\)"):
        from_one_hot([1.0])


# --- rows ---


def test_split_takes_the_usual_rows() -> None:
    x, y = np.arange(10).reshape(5, 2), np.arange(5)
    x_train, x_test, y_train, y_test = train_test_split(x, y, test_size=0.33, seed=42)
    # The example in scikit-learn's documentation of train_test_split.
    assert y_train.tolist() == [2, 0, 3] and y_test.tolist() == [1, 4]
    assert np.array_equal(x_test, x[y_test]) and np.array_equal(x_train, x[y_train])


@settings(deadline=None)
@given(st.integers(2, 60), st.floats(0.01, 0.5), st.integers(0, 2**32 - 1))
def test_split_covers_each_row_once(n: int, test_size: float, seed: int) -> None:
    train, test = train_test_split(np.arange(n), test_size=test_size, seed=seed)
    assert test.size == math.ceil(n * test_size)
    assert sorted([*train, *test]) == list(range(n))


def test_split_misuse() -> None:
    for arrays in ((), ([1, 2], [1, 2, 3]), ([], []), (5.0,)):
        with pytest.raises(ValueError, match="equally many rows, at least one"):
            train_test_split(*arrays, seed=0)
    for test_size in (0, 1, -0.5, 3, math.nan, math.inf):
        with pytest.raises(ValueError, match="a fraction between 0 and 1"):
            train_test_split([1, 2, 3], test_size=test_size, seed=0)
    with pytest.raises(ValueError, match="leaves none to train on"):
        train_test_split([1], seed=0)
    with pytest.raises(ValueError, match=r"2\*\*32 - 1"):
        train_test_split([1, 2, 3], seed=-1)


def test_sample_takes_the_usual_rows() -> None:
    # DataFrame({"row": range(12)}).sample(frac=0.3, random_state=73073) in pandas 3.1.
    assert sample_rows(12, 0.3, 73073).tolist() == [3, 9, 11, 10]
    assert sorted(sample_rows(9, 1.0, 0)) == list(range(9))
    for n, fraction in ((10, 0.0), (10, 1.5), (10, math.nan), (3, 0.1), (0, 0.5)):
        with pytest.raises(ValueError, match="fraction must lie in"):
            sample_rows(n, fraction, 0)


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.booleans(), st.integers(0, 2**64 - 1), st.integers(0, 1000))
def test_loader_covers_each_row_once(n: int, batch_size: int, shuffle: bool, seed: int, epoch: int) -> None:
    x = np.arange(2 * n).reshape(n, 2)
    loader = DataLoader(x, np.arange(n), batch_size=batch_size, shuffle=shuffle, seed=seed)
    loader.epoch = epoch
    batches = list(loader)
    assert len(batches) == len(loader) == math.ceil(n / batch_size)
    assert all(len(rows) == batch_size for _, rows in batches[:-1])
    order = np.concatenate([rows for _, rows in batches])
    assert sorted(order) == list(range(n)) and (shuffle or order.tolist() == list(range(n)))
    assert all(np.array_equal(values, x[rows]) for values, rows in batches)
    assert loader.epoch == epoch + 1


def orders(loader: DataLoader, epochs: int) -> list[list[int]]:
    return [np.concatenate(list(loader)).tolist() for _ in range(epochs)]


def test_loader_order_depends_on_seed_and_epoch_alone() -> None:
    rows = np.arange(30)
    first, second, third = orders(DataLoader(rows, batch_size=4, seed=5), 3)
    assert first != second != third != first
    assert orders(DataLoader(rows, batch_size=7, seed=5), 3) == [first, second, third]
    assert orders(DataLoader(rows, seed=6), 1) != [first]
    resumed = DataLoader(rows, seed=5)
    resumed.epoch = 2
    assert orders(resumed, 1) == [third]
    pinned = [[7, 2, 4, 3, 5, 6, 1, 0], [1, 2, 6, 0, 4, 3, 7, 5]]
    assert orders(DataLoader(np.arange(8), seed=73073), 2) == pinned


def test_two_iterators_do_not_disturb_each_other() -> None:
    first, second = orders(DataLoader(np.arange(9), seed=1), 2)
    loader = DataLoader(np.arange(9), seed=1)
    pairs = list(zip(loader, loader, strict=True))
    assert [int(a[0]) for a, _ in pairs] == first and [int(b[0]) for _, b in pairs] == second


def test_loader_batches() -> None:
    x = np.arange(7.0)
    loader = DataLoader(x, batch_size=3, drop_last=True, shuffle=False)
    batches = list(loader)
    assert [batch.tolist() for batch in batches] == [[0, 1, 2], [3, 4, 5]] and len(loader) == 2
    batches[0][:] = -1
    assert x[0] == 0, "a batch is a copy"
    assert isinstance(next(iter(DataLoader(x, x))), tuple)
    assert len(list(DataLoader(x, batch_size=50))) == 1


@pytest.mark.parametrize("batch_size", [0, -1, 2.0, "2", None])
def test_bad_batch_size(batch_size: Any) -> None:
    with pytest.raises(ValueError, match="batch_size must be a positive integer, not"):
        DataLoader([1, 2], batch_size=batch_size)


def test_loader_misuse() -> None:
    with pytest.raises(ValueError, match=r"equally many rows, at least one, not \[2, 3\]"):
        DataLoader([1, 2], [1, 2, 3])
    with pytest.raises(ValueError, match="at least one"):
        DataLoader([])
    with pytest.raises(ValueError, match="at least one"):
        DataLoader()
    with pytest.raises(ValueError, match="drop_last leaves no batch of 3 out of 2 rows"):
        DataLoader([1, 2], batch_size=3, drop_last=True)
    with pytest.raises(ValueError, match="seed must be"):
        DataLoader([1, 2], seed=-1)


# --- the synthetic reservoir ---


@pytest.fixture(scope="module")
def reservoir() -> Reservoir:
    return synthetic_reservoir()


def test_reservoir_is_plausible_and_repeats(reservoir: Reservoir) -> None:
    assert reservoir.porosity.shape == reservoir.facies.shape == reservoir.impedance.shape == (100, 100)
    assert set(np.unique(reservoir.facies)) == {0, 1} and reservoir.facies.mean() == pytest.approx(0.6)
    assert reservoir.porosity.min() >= 0.05 and reservoir.porosity.max() <= 0.30
    assert reservoir.impedance.min() > 1500 and reservoir.impedance.max() < 7000
    sand = reservoir.facies == 1
    assert reservoir.porosity[sand].mean() > reservoir.porosity[~sand].mean() + 0.05
    assert reservoir.impedance[sand].mean() < reservoir.impedance[~sand].mean() - 1000
    assert reservoir.x[[0, -1]].tolist() == [5, 995] and reservoir.y[[0, -1]].tolist() == [995, 5]
    again, other = synthetic_reservoir(), synthetic_reservoir(seed=1)
    assert np.array_equal(again.impedance, reservoir.impedance)
    assert not np.array_equal(other.impedance, reservoir.impedance)


def test_reservoir_stays_as_it_is(reservoir: Reservoir) -> None:
    wells = sample_wells(reservoir)
    assert wells["Porosity"].mean() == pytest.approx(0.1918619898, rel=1e-8)
    assert wells["AI"].mean() == pytest.approx(4147.771106, rel=1e-8)
    assert wells["X"][0] == pytest.approx(599.3678068646416)


def test_fields_are_correlated_over_their_range() -> None:
    fields = [synthetic_reservoir((60, 90), seed) for seed in range(20)]
    bodies = np.array([field.facies for field in fields], dtype=float)
    bodies -= bodies.mean(axis=(1, 2), keepdims=True)

    def correlation(lag: int) -> tuple[float, float]:
        along = (bodies[:, :, lag:] * bodies[:, :, :-lag]).mean() / bodies.var()
        across = (bodies[:, lag:] * bodies[:, :-lag]).mean() / bodies.var()
        return float(along), float(across)

    # Within 200 m nearby cells agree and far ones do not; a torus no wider than the map would tie its edges.
    assert min(correlation(2)) > 0.7
    assert max(map(abs, correlation(25))) < 0.2
    edges = (bodies[:, :, 0] * bodies[:, :, -1]).mean() / bodies.var()
    assert abs(edges) < 0.3


def test_cell_scales_the_coordinates_not_the_rock() -> None:
    coarse = synthetic_reservoir((10, 20), cell=100.0)
    assert coarse.x[-1] == 1950 and coarse.y[0] == 950 and coarse.cell == 100
    assert synthetic_reservoir((1, 1)).porosity.shape == (1, 1)


def test_wells_stand_in_cells_of_their_own(reservoir: Reservoir) -> None:
    wells = sample_wells(reservoir)
    assert wells.columns == ("X", "Y", "Facies", "Porosity", "AI") and len(wells) == 480
    col = np.floor(wells["X"] / reservoir.cell).astype(int)
    row = 99 - np.floor(wells["Y"] / reservoir.cell).astype(int)
    assert len(set(zip(row, col, strict=True))) == 480
    for name, values in {
        "Facies": reservoir.facies,
        "Porosity": reservoir.porosity,
        "AI": reservoir.impedance,
    }.items():
        assert np.array_equal(wells[name], values[row, col])
    assert len(np.unique(wells["X"] % reservoir.cell)) == 480, "wells stand off the grid"
    assert len(sample_wells(synthetic_reservoir((3, 4)), 12)) == 12


def held_out_mse(inputs: Floats, outputs: Floats, degree: int, seed: int) -> float:
    x_train, x_test, y_train, y_test = train_test_split(inputs, outputs, test_size=0.2, seed=seed)
    fit = np.polynomial.Polynomial.fit(x_train, y_train, degree)
    return float(np.mean((fit(x_test) - y_test) ** 2))


@pytest.mark.parametrize("seed", [73073, 1, 2, 3, 4])
def test_a_curve_beats_a_line_on_the_wells(seed: int) -> None:
    wells = sample_wells(synthetic_reservoir(seed=seed), seed=seed)
    mean, line, cubic = (
        np.mean([held_out_mse(wells["AI"], wells["Porosity"], degree, split) for split in range(40)])
        for degree in (0, 1, 3)
    )
    assert cubic < 0.92 * line and line < 0.5 * mean


def test_synthetic_misuse(reservoir: Reservoir) -> None:
    for shape in ((0, 5), (5, -1)):
        with pytest.raises(ValueError, match="at least one cell of positive size"):
            synthetic_reservoir(shape)
    for cell in (0.0, math.nan, math.inf):
        with pytest.raises(ValueError, match="at least one cell of positive size"):
            synthetic_reservoir(cell=cell)
    for n in (0, 10_001):
        with pytest.raises(ValueError, match="room for 1 to 10000 wells"):
            sample_wells(reservoir, n)
    with pytest.raises(ValueError, match="seed must be"):
        synthetic_reservoir(seed=-1)


# --- real wells ---


@pytest.fixture(scope="module")
def real() -> Path:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "GeoDataSets"
    folder = Path(os.environ.get("AUTOGRAD_GEO_DATA", beside))
    if not (folder / "12_sample_data.csv").is_file():
        pytest.skip(f"no 12_sample_data.csv in {folder}; set AUTOGRAD_GEO_DATA to a folder with GeoDataSets")
    return folder


def test_real_wells(real: Path) -> None:
    table = read_table(real / "12_sample_data.csv")
    assert table.columns == ("X", "Y", "Facies", "Porosity", "Perm", "AI") and len(table) == 480
    chosen = table.select(sample_rows(len(table), 0.30, 73073))
    assert len(chosen) == 144
    assert chosen["Porosity"].mean() == pytest.approx(0.190700, abs=5e-7)
    assert chosen["AI"].mean() == pytest.approx(3746.8257, abs=5e-5)
    inputs = MinMaxScaler().fit_transform(chosen["AI"])
    outputs = MinMaxScaler().fit_transform(chosen["Porosity"])
    x_train, x_test, y_train, y_test = train_test_split(inputs, outputs, test_size=0.2, seed=73073)
    assert (len(x_train), len(x_test)) == (115, 29)
    for degree, train, test in ((0, 0.2419, 0.3331), (1, 0.1591, 0.2052)):
        fit = np.polynomial.Polynomial.fit(x_train, y_train, degree)
        assert np.mean((fit(x_train) - y_train) ** 2) == pytest.approx(train, abs=5e-5)
        assert np.mean((fit(x_test) - y_test) ** 2) == pytest.approx(test, abs=5e-5)


def test_real_maps_and_logs(real: Path) -> None:
    grid = read_map(real / "12_AI.csv")
    assert grid.shape == (100, 100)
    assert (round(float(grid.min())), round(float(grid.max()))) == (1517, 6735)
    log = read_table(real / "1D_Porosity.csv")
    assert log.columns == ("Depth", "Nporosity") and len(log) == 40
