"""What has no meaning is refused with a message that says what to do; odd input that has one works, wherever it goes.

What `backward` refuses is in `test_backward.py`, what NumPy's functions refuse on tensors in `test_numpy_protocols.py`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import autograd_geo as ag

A = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])


def variable(value: Any) -> ag.Tensor:
    return ag.tensor(value, requires_grad=True)


def gradient(x: ag.Tensor) -> np.ndarray[Any, Any]:
    assert x.grad is not None
    return x.grad.numpy()


# --- what has no meaning ------------------------------------------------------------------------------------------

MEANINGLESS: dict[str, tuple[Any, str]] = {
    "objects": (np.array([1.0, None, 2.0]), "objects.*dtype=float"),
    "text": (np.array(["1", "2", "3"]), "text.*dtype=float"),
    "bytes": (np.array([b"1", b"2", b"3"]), "bytes.*dtype=float"),
    "dates": (np.array(["2026-01-01"] * 3, "M8[D]"), "dates.*seconds"),
    "time spans": (np.array([1, 2, 3], "m8[s]"), "time spans.*timedelta64"),
    "complex numbers": (np.array([1j, 2.0, 3.0]), "complex.*real and imaginary"),
    "records": (np.zeros(3, [("a", float)]), "records.*dtype=float"),
    "masked array": (np.ma.masked_array([1.0, 1e20, 3.0], [False, True, False]), r"mask.*filled"),
    "list of masked arrays": ([np.ma.masked_array(1e20, True), 2.0, 3.0], r"mask.*filled"),
    "list with what is masked": ([1.0, np.ma.masked, 3.0], r"mask.*filled"),
}
PLACES: dict[str, Callable[[ag.Tensor, Any], Any]] = {
    "tensor": lambda x, data: ag.tensor(data),
    "leaf": lambda x, data: ag.tensor(data, requires_grad=True),
    "parameter": lambda x, data: ag.Parameter(data),
    "operand": lambda x, data: ag.multiply(x, data),
    "operand on the left": lambda x, data: ag.subtract(data, x),
    "joined": lambda x, data: ag.concatenate([x, [data]]),
    "product": lambda x, data: ag.matmul(x, data),
    "einsum": lambda x, data: ag.einsum("ij,j", x, data),
    "written": lambda x, data: (x * 1.0).__setitem__(0, data),
    "added": lambda x, data: (x * 1.0).__iadd__(data),
    "assigned": lambda x, data: ag.zeros(3).assign(data),
    "cotangent": lambda x, data: x[0].backward(data),
    "gradient": lambda x, data: setattr(variable(np.ones(3)), "grad", data),
    "transform": lambda x, data: ag.grad(lambda v: (v * v).sum())(data),
    "tangent": lambda x, data: ag.jvp(lambda v: v * v, (np.ones(3),), (data,)),
    "compiled": lambda x, data: ag.compile(lambda v: v * v)(data),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("kind", MEANINGLESS)
@pytest.mark.filterwarnings("ignore:.*masked element:UserWarning")
def test_what_is_no_number_is_refused_everywhere(kind: str, place: str) -> None:
    data, advice = MEANINGLESS[kind]
    if isinstance(data, list) and place in ("transform", "tangent", "compiled"):
        return  # there a list is a nesting of arguments
    x = variable(A)
    with pytest.raises((TypeError, ValueError)) as error:
        PLACES[place](x, data)
    assert re.search(advice, str(error.value), re.DOTALL), str(error.value)
    assert x.grad is None
    np.testing.assert_array_equal(x.numpy(), A)
    (x * x).sum().backward()
    np.testing.assert_array_equal(gradient(x), 2 * A)


MASKED = np.ma.masked_array([1.0, 0.0, 3.0], [False, True, False])
WHOLE = np.ma.masked_array([1, 0, 2], [False, True, False])
RIGHT = MASKED > 0


def optimizer_state() -> tuple[Any, dict[str, Any]]:
    w = variable([1.0, 2.0, 3.0])
    optimizer = ag.optim.SGD([w], momentum=0.9)
    (w * w).sum().backward()
    optimizer.step()
    return optimizer, {"lr": 0.1, "state": [{"velocity": MASKED}]}


def load(thing: Any, state: Any) -> None:
    before = str(thing.state_dict())
    try:
        thing.load_state_dict(state)
    finally:
        assert str(thing.state_dict()) == before


DOORS: dict[str, Callable[[], Any]] = {
    "condition": lambda: ag.where(RIGHT, variable(A), 0.0),
    "condition of NumPy's function": lambda: np.where(RIGHT, variable(A), 0.0),
    "one masked condition": lambda: ag.where(np.ma.masked, variable(A), 0.0),
    "attribute": lambda: ag.repeat(variable(A), WHOLE, axis=1),
    "attribute in a tuple": lambda: ag.roll(variable(A), (WHOLE[1], 0), axis=(0, 1)),
    "index": lambda: variable(A)[:, RIGHT],
    "positions": lambda: ag.take(variable(A), WHOLE),
    "positions along": lambda: ag.take_along_axis(variable(A), WHOLE[None], 1),
    "filled": lambda: ag.full(3, MASKED),
    "cotangent": lambda: ag.vjp(lambda x: x * x, np.ones(3))[1](MASKED),
    "tangent": lambda: ag.jvp(lambda x: x * x, (np.ones(3),), (MASKED,)),
    "direction": lambda: ag.hvp(lambda x: (x * x).sum(), np.ones(3), MASKED),
    "lesson": lambda: ag.steps(variable(np.ones(3)) * 1.0, MASKED),
    "checked": lambda: ag.check_grad(lambda x: (x * x).sum(), MASKED),
    "loaded parameters": lambda: load(ag.nn.Linear(3, 1), {"weight": MASKED[None], "bias": np.ones(1)}),
    "loaded optimiser": lambda: load(*optimizer_state()),
    "loaded scaler": lambda: load(
        ag.data.MinMaxScaler(), {"feature_range": (-1, 1), "data_min_": MASKED, "data_max_": MASKED}
    ),
    "scaled": lambda: ag.data.MinMaxScaler().fit(MASKED),
    "batches": lambda: ag.data.DataLoader(A.T, MASKED),
    "split": lambda: ag.data.train_test_split(MASKED, seed=0),
    "rows": lambda: ag.data.Table({"depth": [1.0, 2.0, 3.0]}).select(RIGHT),
    "labels": lambda: ag.data.one_hot(WHOLE),
    "probabilities": lambda: ag.data.from_one_hot(MASKED[None]),
    "map": lambda: ag.data.write_map("never.csv", MASKED[None]),
}


@pytest.mark.parametrize("door", DOORS)
def test_a_masked_array_comes_in_nowhere(door: str) -> None:
    with pytest.raises(TypeError, match="lose its mask here; fill it first"):
        DOORS[door]()
    assert not Path("never.csv").exists()


def test_a_masked_column_is_refused_by_name() -> None:
    with pytest.raises(ag.data.DataError, match=r"well 3: column 'depth': a masked array would lose its mask"):
        ag.data.Table({"depth": MASKED}, "well 3")


@pytest.mark.parametrize("index", [np.ma.masked_array([0, 1], [True, False]), [0, np.ma.masked]], ids=["array", "list"])
def test_a_masked_index_is_refused(index: Any) -> None:
    x = variable(A)
    for use in (lambda: x[index], lambda: x[:, index], lambda: (x * 1.0).__setitem__(index, 0.0)):
        with pytest.raises(TypeError, match="mask"):
            use()


# --- indices ------------------------------------------------------------------------------------------------------

OUTSIDE: dict[str, Callable[[Any], Any]] = {
    "row": lambda x: x[2],
    "negative row": lambda x: x[-3],
    "column": lambda x: x[0, 3],
    "array": lambda x: x[np.array([0, 2])],
    "negative array": lambda x: x[np.array([-3, 0])],
    "tensor": lambda x: x[ag.tensor([0, 2])],
    "mask": lambda x: x[np.array([True, False, True])],
    "too many": lambda x: x[0, 0, 0],
    "not whole": lambda x: x[1.0],
    "not a number": lambda x: x[float("nan")],
    "text": lambda x: x["porosity"],
    "take": lambda x: ag.take(x, 6),
    "take along": lambda x: ag.take(x, [0, 3], axis=1),
    "take_along_axis": lambda x: ag.take_along_axis(x, np.array([[3]]), 1),
    "axis": lambda x: ag.sum(x, axis=2),
    "written row": lambda x: (x * 1.0).__setitem__(2, 0.0),
    "written array": lambda x: (x * 1.0).__setitem__(np.array([0, 2]), 0.0),
}


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("compiled", [False, True])
def test_an_index_out_of_range_is_refused(name: str, compiled: bool) -> None:
    """Never clamped, never wrapped around; the message has the index, or the axis, and the shape."""
    call = OUTSIDE[name]
    run = ag.compile(call) if compiled else call
    with pytest.raises(IndexError, match=r"\w+: .*(\(2, 3\)|\(6,\)|\(2, 1\))") as error:
        run(variable(A))
    assert re.match(r"\w+: ", str(error.value)), "it names the op"
    with pytest.raises(IndexError):
        run(ag.tensor(A))


AXES: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: ag.sum(x, axis=2),
    "max": lambda x: x.max(axis=(0, -3)),
    "cumsum": lambda x: ag.cumsum(x, axis=2),
    "argmax": lambda x: ag.argmax(x, axis=2),
    "concatenate": lambda x: ag.concatenate([x, x], axis=2),
    "stack": lambda x: ag.stack([x, x], axis=3),
    "moveaxis": lambda x: ag.moveaxis(x, 2, 0),
    "expand_dims": lambda x: ag.expand_dims(x, 4),
    "sort": lambda x: ag.sort(x, axis=2),
}


@pytest.mark.parametrize("name", AXES)
def test_an_axis_that_is_not_there_is_numpys_error(name: str) -> None:
    """Both ValueError and IndexError, which handlers of either catch."""
    with pytest.raises(
        np.exceptions.AxisError, match=r"\w+: .*out of bounds.*\(2, 3\).*Axes count from 0, or from -1 back"
    ):
        AXES[name](variable(A))


HUGE = 10**400
TOO_LARGE: dict[str, tuple[Callable[[Any], Any], str]] = {
    "array": (lambda x: x + HUGE, "add: .*a float will do"),
    "array on the right": (lambda x: HUGE * x, "multiply: .*a float will do"),
    "number": (lambda x: ag.tensor(1.0) - HUGE, "subtract: .*a float will do"),
    "number on the right": (lambda x: HUGE / ag.tensor(1.0), "divide: .*a float will do"),
    "single precision": (lambda x: ag.tensor(np.float32(1)) * HUGE, "multiply: .*a float will do"),
    "literals": (lambda x: ag.multiply(2.0, HUGE), "multiply: .*a float will do"),
    "whole literals": (lambda x: ag.multiply(2, HUGE), "multiply: .*a float will do"),
    "where": (lambda x: ag.where(True, x, HUGE), "where: .*a float will do"),
    "bytes": (lambda x: ag.tensor(np.ones(3, np.int8)) + 1000, r"add: .*1000.*int8.*x\.astype\(float\)"),
    "integers": (lambda x: ag.maximum(ag.tensor([1, 2]), HUGE), "maximum: .*smaller"),
    "axis": (lambda x: ag.sum(x, axis=HUGE), r"sum: .*\(2, 3\), axis=1000"),
    "tiles": (lambda x: ag.tile(x, HUGE), "tile: .*smaller"),
}


@pytest.mark.parametrize("name", TOO_LARGE)
def test_a_number_too_large_for_its_type_is_told(name: str) -> None:
    call, message = TOO_LARGE[name]
    x = variable(A)
    with pytest.raises(OverflowError, match=message):
        call(x)
    (x * x).sum().backward()
    np.testing.assert_array_equal(gradient(x), 2 * A)


def test_an_index_that_leaves_the_range_later_is_refused_compiled_too() -> None:
    read = ag.compile(lambda x, i: x[i].sum())
    x = ag.tensor(A[0])
    assert read(x, np.array([0, 2])).item() == 4.0
    for outside in ([0, 3], [-4, 0]):
        with pytest.raises(IndexError):
            read(x, np.array(outside))
    assert read(x, np.array([1, -1])).item() == 5.0


# --- shapes -------------------------------------------------------------------------------------------------------

POINTWISE = ["add", "multiply", "divide", "power", "maximum", "hypot", "less"]


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.sampled_from(POINTWISE), *[hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=3)] * 2)
def test_shapes_broadcast_where_numpys_do(name: str, a: tuple[int, ...], b: tuple[int, ...]) -> None:
    x, y = np.full(a, 2.0), np.full(b, 3.0)
    operands = [(variable(x), variable(y)), (variable(x), y), (ag.tensor(x), y)]
    try:
        expected = np.broadcast_shapes(a, b)
    except ValueError:
        for pair in operands:
            with pytest.raises(ValueError, match=rf"{name}: shapes {re.escape(str(a))} and {re.escape(str(b))} do not"):
                getattr(ag, name)(*pair)
        return
    for pair in operands:
        assert getattr(ag, name)(*pair).shape == expected


MISFITS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "operator": (lambda x: x + np.ones(4), r"add: shapes \(2, 3\) and \(4,\) do not broadcast"),
    "where": (lambda x: ag.where(x > 0, x, np.ones(4)), r"where: .*\(4,\) do not broadcast"),
    "matmul": (lambda x: x @ x, r"matmul: shapes \(2, 3\) and \(2, 3\) do not fit; the axes that are summed"),
    "dot": (lambda x: ag.dot(x[0], np.ones(2)), r"shapes \(3,\) and \(2,\) do not fit"),
    "dense": (lambda x: ag.nn.Linear(4, 1)(x), r"Linear expects 4 features on the last axis.*\(2, 3\)"),
    "einsum": (lambda x: ag.einsum("ij,jk", x, x), r"einsum: shapes \(2, 3\) and \(2, 3\)"),
    "concatenate": (lambda x: ag.concatenate([x, x.T]), r"concatenate: .*\(2, 3\) and \(3, 2\)"),
    "stack": (lambda x: ag.stack([x, x[0]]), r"stack: .*same shape; shapes \(2, 3\) and \(3,\)"),
    "reshape": (lambda x: x.reshape(4, 2), r"reshape: .*size 6 into shape \(4,2\)"),
    "broadcast_to": (lambda x: ag.broadcast_to(x, (4, 3)), r"broadcast_to: .*\(2, 3\)"),
    "split": (lambda x: ag.split(x, 2, axis=1), r"split: axis 1 of length 3 does not divide into 2 equal parts"),
    "in place": (lambda x: (x * 1.0).__iadd__(np.ones((2, 2, 3))), r"x \+= v .* from \(2, 3\) to \(2, 2, 3\)"),
    "written": (lambda x: (x * 1.0).__setitem__(0, np.ones(2)), r"setitem: .*\(2, 3\) and \(2,\)"),
    "assigned": (lambda x: ag.zeros(3).assign(np.ones(2)), r"shape \(2,\) cannot replace one of shape \(3,\)"),
    "gradient": (lambda x: setattr(x, "grad", np.ones(3)), r"must have shape \(2, 3\).*not \(3,\)"),
}


@pytest.mark.parametrize("name", MISFITS)
@pytest.mark.parametrize("compiled", [False, True])
def test_shapes_that_do_not_fit_are_told(name: str, compiled: bool) -> None:
    call, message = MISFITS[name]
    x = variable(A)
    with pytest.raises(ValueError, match=message):
        (ag.compile(call) if compiled and name != "assigned" else call)(x)
    assert x.grad is None
    np.testing.assert_array_equal(x.numpy(), A)


# --- reductions of nothing ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["max", "min", "argmax", "argmin", "mean", "var", "std"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_reduction_of_nothing_without_identity_is_refused(name: str, compiled: bool) -> None:
    """Where NumPy raises, or warns and returns NaN; along an axis that is not empty there is nothing to refuse."""
    reduce = getattr(ag, name)
    for shape, axis in (((0,), None), ((0, 3), None), ((0, 3), 0), ((2, 0), 1)):
        call = (
            (lambda x, axis=axis: reduce(x, axis=axis))
            if not compiled
            else ag.compile(lambda x, axis=axis: reduce(x, axis=axis))
        )
        with pytest.raises(ValueError, match=rf"{name}: .*; shapes {re.escape(str(shape))}"):
            call(variable(np.zeros(shape)))
    assert reduce(variable(np.zeros((0, 3))), axis=1).shape == (0,)


@pytest.mark.parametrize(
    ("name", "value"), [("sum", 0.0), ("prod", 1.0), ("norm", 0.0), ("logsumexp", -np.inf)]
)  # fmt: skip
def test_a_reduction_of_nothing_is_its_identity(name: str, value: float) -> None:
    x = variable(np.zeros((0, 3)))
    out = getattr(ag, name)(x)
    assert out.item() == value
    np.testing.assert_array_equal(getattr(ag, name)(x, axis=0).numpy(), np.full(3, value))
    out.backward()
    assert gradient(x).shape == (0, 3)


def test_a_standard_deviation_of_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="std: the standard deviation needs more than ddof=1 elements"):
        ag.std(variable([1.0]), ddof=1)


# --- cotangents and tangents --------------------------------------------------------------------------------------


def two(d: Any) -> Any:
    return [d["a"] * d["b"], d["a"].sum()]


PAIR = {"a": np.ones(3), "b": np.ones(3)}
SEEDS: dict[str, tuple[Callable[[], Any], str]] = {
    "cotangent": (lambda: ag.vjp(two, PAIR)[1]([np.ones(3), 1j]), r"vjp: the cotangent\[1\]: .*complex numbers"),
    "its shape": (lambda: ag.vjp(two, PAIR)[1]([np.ones(2), 1.0]), r"vjp: the cotangent\[0\]: .*\(2,\), .*\(3,\)"),
    "of integers": (
        lambda: ag.vjp(lambda x: ag.argmax(x, axis=0), np.ones((2, 3)))[1](np.ones(3)),
        "vjp: the cotangent: .*float64 does not fit .*int64",
    ),
    "tangent": (
        lambda: ag.jvp(two, (PAIR,), ({"a": np.ones(3), "b": ["1", "2", "3"]},)),
        r"jvp: tangents\[0\]\['b'\]: .*text",
    ),
    "its length": (
        lambda: ag.jvp(two, (PAIR,), ({**PAIR, "a": np.ones(2)},)),
        r"jvp: tangents\[0\]\['a'\]: .*\(2,\)",
    ),
    "vector": (lambda: ag.hvp(lambda x: (x * x).sum(), np.ones(3), np.ones((2, 3))), r"hvp: the vector: .*\(2, 3\)"),
    "its parts": (
        lambda: ag.hvp(lambda d: (d["a"] ** 2 * d["b"]).sum(), PAIR, {"a": np.ones(3), "b": np.ones(3) * 1j}),
        r"hvp: the vector\['b'\]: .*complex",
    ),
    "argument": (
        lambda: ag.grad(lambda d: d["a"].sum())({"a": np.ones(2), "b": 1}),
        r"grad: argument 0\['b'\]: only floating-point",
    ),
    "another argument": (lambda: ag.grad(lambda a, b: a * b, (0, 1))(1.0, 2), "grad: argument 1: only floating-point"),
    "primal": (
        lambda: ag.jvp(lambda a, b: a * b, (1.0, [[1.0], [2]]), ()),
        r"jvp: primals\[1\]\[1\]\[0\]: only floating-point",
    ),
}


@pytest.mark.parametrize("name", SEEDS)
def test_what_a_transform_refuses_is_told_by_its_place(name: str) -> None:
    call, message = SEEDS[name]
    with pytest.raises((TypeError, ValueError), match=message):
        call()


# --- odd but meaningful -------------------------------------------------------------------------------------------


class Labelled(np.ndarray):  # type: ignore[type-arg]
    """A subclass of arrays."""


ODD = [
    "big-endian", "negative strides", "zero strides", "read-only", "Fortran", "steps", "subclass", "memory map",
    "unaligned",
]  # fmt: skip


def odd(kind: str, values: np.ndarray[Any, Any], tmp_path: Path) -> Any:
    """An array of these values (all equal to the first for zero strides), made in an odd way."""
    if kind == "big-endian":
        return values.astype(values.dtype.newbyteorder(">"))
    if kind == "negative strides":
        return values[::-1, ::-1].copy()[::-1, ::-1]
    if kind == "zero strides":
        return np.broadcast_to(values[0, 0], values.shape)
    if kind == "read-only":
        values = values.copy()
        values.flags.writeable = False
        return values
    if kind == "Fortran":
        return np.asfortranarray(values)
    if kind == "steps":
        return np.repeat(np.repeat(values, 2, 0), 3, 1)[::2, ::3]
    if kind == "subclass":
        return values.view(Labelled)
    if kind == "memory map":
        values.tofile(tmp_path / "values")
        return np.memmap(tmp_path / "values", values.dtype, "r", shape=values.shape)
    return np.frombuffer(b"\0" + values.tobytes(), np.uint8)[1:].view(values.dtype).reshape(values.shape)


INDEX, MASK = np.array([[1, 0, 2], [2, 2, 0]]), np.array([[True, False, True], [False, True, True]])
USES: dict[str, tuple[Callable[[Any], Any], np.ndarray[Any, Any]]] = {
    "leaf": (lambda c: (lambda x: ((x * x).sum().backward(), gradient(x))[1])(variable(c)), A),
    "float32 leaf": (lambda c: (lambda x: ((x * x).sum().backward(), gradient(x))[1])(variable(c)), A.astype("f4")),
    "operand": (lambda c: ag.grad(lambda x: (x * x * c).sum())(A), A),
    "integers": (lambda c: ag.grad(lambda x: (x * x * c).sum())(A), INDEX),
    "product": (lambda c: ag.grad(lambda x: (x @ c.T).sum())(A), A),
    "index": (lambda c: ag.grad(lambda x: (x[1][c] ** 2).sum())(A), INDEX),
    "index of take_along_axis": (lambda c: ag.grad(lambda x: (ag.take_along_axis(x, c, 1) ** 2).sum())(A), INDEX),
    "mask": (lambda c: ag.grad(lambda x: (x[c] ** 2).sum())(A), MASK),
    "condition": (lambda c: ag.grad(lambda x: ag.where(c, x * x, x).sum())(A), MASK),
    "cotangent": (lambda c: ag.vjp(lambda x: x * x, A)[1](c)[0], A),
    "tangent": (lambda c: ag.jvp(lambda x: x * x, (A,), (c,))[1], A),
    "argument of a transform": (lambda c: ag.grad(lambda x: (x**3).sum())(c), A),
    "argument of a compiled function": (lambda c: ag.compile(ag.grad(lambda x: (x**3).sum()))(c), A),
    "written": (lambda c: (lambda y: (y.__setitem__(Ellipsis, c), y)[1])(ag.tensor(A) * 1.0), A),
    "assigned": (lambda c: (lambda y: (y.assign(c), y)[1])(ag.zeros((2, 3))), A),
}


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("kind", ODD)
def test_odd_arrays_work_wherever_plain_ones_do(kind: str, use: str, tmp_path: Path) -> None:
    program, values = USES[use]
    given = odd(kind, values, tmp_path)
    plain = np.array(given, values.dtype)
    found, expected = (np.asarray(program(c).numpy() if use not in ("leaf", "float32 leaf") else program(c)) for c in (
        given, plain
    ))  # fmt: skip
    np.testing.assert_array_equal(found, expected)
    assert found.dtype == expected.dtype and found.dtype.isnative


@pytest.mark.parametrize("shape", [(), (0,), (0, 3), (1, 0, 2), (1,), (1, 1)], ids=str)
def test_single_numbers_and_nothing_at_all(shape: tuple[int, ...]) -> None:
    """0-d arrays and empty ones have values and gradients of their shape, compiled too."""
    values = np.full(shape, 3.0)

    def program(x: Any) -> Any:
        return (ag.tanh(x * x) + x[...] - 2.0).sum()

    x = variable(values)
    program(x).backward()
    assert gradient(x).shape == shape
    for compiled in (ag.grad(program), ag.compile(ag.grad(program))):
        np.testing.assert_allclose(compiled(values).numpy(), gradient(x), rtol=1e-12)
    np.testing.assert_allclose(gradient(x), 6.0 / np.cosh(9.0 + 0 * values) ** 2 + 1.0, rtol=1e-12)


@pytest.mark.parametrize(("data", "dtype"), [(1000, np.int8), ([1, -3], np.uint8), ([[2**40]], np.int32)])
def test_integers_that_a_dtype_cannot_hold(data: Any, dtype: Any) -> None:
    with pytest.raises(OverflowError, match=r"does not fit into u?int\d+, which holds"):
        ag.tensor(data, dtype=dtype)
    assert ag.tensor([100, 7], dtype=dtype).tolist() == [100, 7]


@pytest.mark.parametrize(
    "result, what",
    [
        (lambda x: np.ma.masked_less(x, 1.5), "a masked array"), (lambda x: x * 1j, "dtype complex128"),
        (lambda x: np.array([None, 1]), "dtype object"), (lambda x: None, "dtype object"),
        (lambda x: "text", "dtype <U4"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("declared", [ag.custom(x=lambda g: g, method=False), ag.linear(lambda g: g, method=False)])
def test_an_op_returns_real_numbers(declared: Any, result: Any, what: str) -> None:
    def made(x: Any, /) -> Any:
        return result(x)

    with pytest.raises(TypeError, match=f"made: the op's function returned {what}"):
        declared(made)(ag.tensor([1.0, 2.0], requires_grad=True))


def test_a_rule_may_leave_it_to_the_pass_to_sum() -> None:
    @ag.custom(x=lambda g, w: g[..., None] * w, w=lambda g, x: g[..., None] * x, method=False)
    def rowdot(x: Any, w: Any, /) -> Any:
        return (x * w).sum(axis=-1)

    x = np.arange(6.0).reshape(2, 3)
    np.testing.assert_array_equal(ag.grad(lambda w: rowdot(x, w).sum())(np.ones(3)).numpy(), x.sum(axis=0))


def test_a_rule_returns_real_numbers() -> None:
    for rule in (lambda g: np.ma.masked_less(g, 2.0), lambda g: g * 1j):
        op = ag.custom(x=rule, method=False)(lambda x, /: x * 1.0)
        with pytest.raises(TypeError, match="the op's function returned"):
            ag.grad(lambda x, op=op: op(x).sum())(np.ones(3))


def test_an_optimizer_takes_a_parameter_once() -> None:
    shared = ag.nn.Linear(2, 2)
    with pytest.raises(ValueError, match="SGD got one tensor twice, as parameters 0 and 2"):
        ag.optim.SGD([*shared.parameters(), *shared.parameters()])


@pytest.mark.parametrize("transform", [ag.jacobian, ag.hessian])
def test_a_jacobian_is_of_one_array(transform: Any) -> None:
    with pytest.raises(TypeError, match="argument 1 must be one tensor, array or number, not a dict"):
        transform(lambda x, d: (d["a"] * x).sum(), 1)(2.0, {"a": np.ones(2)})
