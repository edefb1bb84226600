"""Writing into tensors, and into the arrays they were made from: no gradient changes silently."""

from __future__ import annotations

import array
import subprocess
import sys
from collections import namedtuple
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import autograd_geo as ag
from autograd_geo.op import functions, registry

MASK = np.array([[True, False, True], [False, False, False], [True, True, False], [False, False, True]])


def variable(value: Any) -> ag.Tensor:
    return ag.tensor(value, requires_grad=True)


def gradient(x: ag.Tensor) -> np.ndarray[Any, Any]:
    assert x.grad is not None
    return x.grad.numpy()


# --- x[i] = v -------------------------------------------------------------------------------------------------

WRITES = {
    "row": (1, (3,)),
    "negative row": (-2, ()),
    "element": ((2, 1), ()),
    "tuple of one": ((3,), (1,)),
    "slice": (slice(1, 3), (2, 3)),
    "step": (slice(None, None, 2), (2, 3)),
    "reversed": (slice(None, None, -1), (4, 3)),
    "negative step": (slice(3, 0, -2), (3,)),
    "column": ((slice(None), 1), (4,)),
    "ellipsis": ((Ellipsis, 2), ()),
    "everything": (Ellipsis, (4, 3)),
    "new axis": ((None, 0), (1, 3)),
    "empty slice": (slice(2, 2), (0, 3)),
    "mask": (MASK, (5,)),
    "mask, one value": (MASK, ()),
    "mask of rows": (np.array([True, False, True, False]), (2, 3)),
    "empty mask": (np.zeros((4, 3), bool), (0,)),
    "mask and column": ((np.array([True, False, True, True]), 1), (3,)),
    "rows": (np.array([0, 2]), (2, 3)),
    "list of rows": ([3, 0], (3,)),
    "negative rows": (np.array([-1, 1]), (2, 1)),
    "points": ((np.array([0, 1, 3]), np.array([2, 0, 1])), (3,)),
    "rows and slice": ((np.array([1, 2]), slice(0, 2)), (2, 2)),
    "duplicate rows": (np.array([0, 2, 2, -1, 3]), (5, 3)),
    "duplicate rows, one value": (np.array([0, 0, 0]), ()),
    "duplicate points": ((np.array([1, 1, 2]), np.array([2, 2, 0])), (3,)),
    "grid": ((np.array([[0], [2]]), np.array([[0, 2]])), (2, 2)),
    "duplicates in a grid": ((np.array([[1], [1]]), np.array([[0, 2, 0]])), (2, 3)),
    "value with a leading axis": (slice(0, 2), (1, 2, 3)),
    "row with a leading axis": (0, (1, 3)),
    "integer of NumPy": (np.int32(2), (3,)),
    "range": (range(0, 4, 2), (2, 3)),
}


@pytest.mark.parametrize("name", WRITES)
def test_item_assignment_is_recorded(name: str) -> None:
    """The value is NumPy's; the gradient, of both, that of finite differences, in two orders."""
    index, shape = WRITES[name]
    rng = np.random.default_rng(0)
    base, value = rng.normal(size=(4, 3)), rng.normal(size=shape)

    def write(x: Any, v: Any) -> Any:
        y = x.copy()
        y[index] = v * 1.0
        return y * y

    expected = base.copy()
    expected[index] = value
    x, v = variable(base), variable(value)
    y = x.copy()
    y[index] = v
    np.testing.assert_array_equal(y.numpy(), expected)
    assert (y.shape, y.dtype, y.requires_grad) == ((4, 3), np.float64, True)
    np.testing.assert_array_equal(x.numpy(), base, err_msg="the copy was written to, x was not")
    ag.check_grad(write, base, value, order=2)
    ag.check_dot(write, base, value)


@pytest.mark.parametrize("name", WRITES)
def test_reading_is_recorded(name: str) -> None:
    """Elements that an index reaches twice get twice the gradient."""
    index, _ = WRITES[name]
    base = np.random.default_rng(1).normal(size=(4, 3))
    np.testing.assert_array_equal(variable(base)[index].numpy(), base[index])
    ag.check_grad(lambda x: x[index] ** 2, base, order=2)
    ag.check_dot(lambda x: x[index], base)


Point = namedtuple("Point", "i j")


class Column:
    """Something array-like that is no array, as the columns of data frames are."""

    def __init__(self, values: Any) -> None:
        self.values = np.asarray(values)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return self.values.astype(dtype) if dtype is not None else self.values

    def __len__(self) -> int:
        return len(self.values)

    def __getitem__(self, k: int) -> Any:
        return self.values[k]


@pytest.mark.parametrize(
    "index",
    [
        range(-1, 2), array.array("q", [0, 0, 1]), Column([0, 0, 1]), memoryview(np.array([1, 1])),
        Point([0, 0], [1, 1]), Point(0, Column([0, 0, 1])), (Column([1, 1, 0]), slice(None)), [[0, 0], [1, 0]],
        ([0, 0], [1, 1]), (range(-1, 2), 0),
    ],
    ids=lambda x: repr(x).split(" at 0x")[0],
)  # fmt: skip
@pytest.mark.parametrize("write", [False, True], ids=["read", "write"])
def test_any_index_that_numpy_takes_is_right_or_refused(index: Any, write: bool) -> None:
    """Duplicates hide in ranges, buffers and columns of data frames too."""
    base = np.array([[1.0, 2.0], [3.0, 4.0]])

    def use(x: Any) -> Any:
        if not write:
            return x[index] * 1.0
        y = x.copy()
        y[index] = x[index] * np.arange(1.0, 1.0 + np.size(base[index])).reshape(np.shape(base[index]))
        return y

    x = variable(base)
    try:
        found = use(x)
    except TypeError:
        return
    np.testing.assert_array_equal(found.numpy(), use(base))
    ag.check_grad(use, base)


def test_the_last_of_several_writes_holds_and_gets_the_gradient() -> None:
    x, v = variable(np.zeros(3)), variable([1.0, 2.0, 3.0, 4.0])
    y = x * 1.0
    y[[0, 2, 0, 0]] = v
    np.testing.assert_array_equal(y.numpy(), [4.0, 0.0, 2.0])
    (y * np.array([10.0, 20.0, 30.0])).sum().backward()
    np.testing.assert_array_equal(gradient(v), [0.0, 30.0, 0.0, 10.0])
    np.testing.assert_array_equal(gradient(x), [0.0, 20.0, 0.0])


def test_adding_at_duplicates_is_buffered_as_in_numpy() -> None:
    """`x[i] += v` reads, adds and writes once, whatever the duplicates: it is no `np.add.at`."""
    index = np.array([0, 0, 1])

    def add(x: Any, v: Any) -> Any:
        y = x.copy()
        y[index] += v
        return y

    x, v = np.array([1.0, 2.0]), np.array([10.0, 20.0, 30.0])
    np.testing.assert_array_equal(add(variable(x), variable(v)).numpy(), [21.0, 32.0])
    ag.check_grad(add, x, v)


@pytest.mark.parametrize("index", [(), Ellipsis])
def test_a_single_number_can_be_written(index: Any) -> None:
    for dtype in (np.float64, np.float32):
        x, v = variable(dtype(2.0)), variable(dtype(3.0))
        y = x * x
        y[index] = v * v
        assert (y.item(), y.dtype) == (9.0, dtype)
        y.backward()
        assert (gradient(v), 0.0 if x.grad is None else gradient(x)) == (6.0, 0.0)


def test_writing_constants_into_a_recorded_tensor_and_back() -> None:
    x = variable([1.0, 2.0, 3.0])
    y = x * x
    y[1] = 5.0
    y[2] = np.float32(7.0)
    (y * y).sum().backward()
    np.testing.assert_array_equal(gradient(x), [4.0, 0.0, 0.0])
    state = ag.tensor(np.zeros(3))
    state[1:] = x[:2] * 10.0
    assert state.requires_grad
    np.testing.assert_array_equal(state.numpy(), [0.0, 10.0, 20.0])
    x.grad = None
    state.sum().backward()
    np.testing.assert_array_equal(gradient(x), [10.0, 10.0, 0.0])


@pytest.mark.parametrize(
    ("index", "value", "error"),
    [
        (5, 1.0, IndexError), ((0, 0, 0), 1.0, IndexError), (np.array([0, 9]), 1.0, IndexError), ("a", 1.0, IndexError),
        (1.5, 1.0, IndexError), (np.array([True, False]), 1.0, IndexError), (slice(0, 2), np.ones(3), ValueError),
        (0, "2.5", TypeError), (0, None, TypeError), (0, np.datetime64("2026-01-01"), TypeError), (0, 1j, TypeError),
        (0, np.ma.masked_array([1.0], [True]), TypeError), (0, np.ones((2, 2)), ValueError),
    ],
    ids=lambda x: repr(x).split(" at 0x")[0],
)  # fmt: skip
@pytest.mark.parametrize("recorded", [True, False])
def test_a_write_without_meaning_is_refused_and_changes_nothing(
    index: Any, value: Any, error: type[Exception], recorded: bool
) -> None:
    x = variable([[1.0], [2.0], [3.0]])
    y = x * 2.0 if recorded else (x * 2.0).detach()
    with pytest.raises(error):
        y[index] = value
    np.testing.assert_array_equal(y.numpy(), [[2.0], [4.0], [6.0]])
    assert y.requires_grad == recorded
    if recorded:
        y.sum().backward()
        np.testing.assert_array_equal(gradient(x), np.full((3, 1), 2.0))


def test_a_recorded_value_is_not_cut_to_integers() -> None:
    x = variable([1.5, 2.5])
    counts = ag.tensor([1, 2, 3])
    with pytest.raises(TypeError, match="float"):
        counts[:2] = x
    np.testing.assert_array_equal(counts.numpy(), [1, 2, 3])
    with pytest.raises(TypeError, match="int64"):
        counts *= x[0]
    assert counts.dtype == np.int64 and not counts.requires_grad


def test_float32_stays_float32_when_written_to() -> None:
    x = variable(np.ones(3, np.float32))
    v = variable(2.0)
    y = x * x
    y[0] = v
    y += v
    y *= np.float64(3.0)
    assert y.dtype == np.float32
    y.sum().backward()
    assert gradient(x).dtype == np.float32
    np.testing.assert_array_equal(gradient(x), np.float32([0.0, 6.0, 6.0]))
    assert gradient(v).item() == 3.0 + 9.0


# --- x += v ---------------------------------------------------------------------------------------------------


def inplace(op: str, x: Any, v: Any) -> Any:
    if op == "+":
        x += v
    elif op == "-":
        x -= v
    elif op == "*":
        x *= v
    elif op == "/":
        x /= v
    elif op == "**":
        x **= v
    else:
        x @= v
    return x


def plain(op: str, x: Any, v: Any) -> Any:
    return {"+": x.__add__, "-": x.__sub__, "*": x.__mul__, "/": x.__truediv__, "**": x.__pow__, "@": x.__matmul__}[op](
        v
    )


OPERATORS = ["+", "-", "*", "/", "**", "@"]


SHAPES = [(op, shape) for op in "+ - * / **".split() for shape in [(2, 2), (2,), (1, 2), ()]]


@pytest.mark.parametrize(("op", "shape"), [*SHAPES, ("@", (2, 2))])
def test_inplace_operators_are_recorded(op: str, shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(2)
    base, value = rng.uniform(0.5, 2.0, (2, 2)), rng.uniform(0.5, 2.0, shape)

    def program(x: Any, v: Any) -> Any:
        y = x * 1.5
        y = inplace(op, y, v)
        return inplace(op, y, v)

    x, v = variable(base), variable(value)
    out = program(x, v)
    np.testing.assert_allclose(out.numpy(), program(base, value), rtol=1e-14)
    w, u = variable(base), variable(value)
    other = plain(op, plain(op, w * 1.5, u), u)
    (out * out).sum().backward()
    (other * other).sum().backward()
    np.testing.assert_array_equal(gradient(x), gradient(w))
    np.testing.assert_array_equal(gradient(v), gradient(u))
    ag.check_grad(program, base, value, order=2, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("op", ["+", "-", "*", "/", "**"])
@pytest.mark.parametrize("value", [2, 0.5, np.float64(1.5), [1.0, 2.0], np.array([3.0, 0.5])], ids=repr)
def test_inplace_operators_take_constants(op: str, value: Any) -> None:
    base = np.array([1.0, 2.0])
    other = np.asarray(value) if isinstance(value, list) else value
    x = variable(base)
    y = x * 1.0
    same = y
    y = inplace(op, y, value)
    assert y is same, "the handle stays, so other names for it see the new value"
    np.testing.assert_allclose(y.numpy(), plain(op, base.copy(), other), rtol=1e-15)
    ag.check_grad(lambda x: inplace(op, x * 1.0, other), base)


def test_an_inplace_operator_cannot_change_the_shape() -> None:
    x = variable([1.0, 2.0])
    y = x * 1.0
    with pytest.raises(ValueError, match="shape"):
        y += np.ones((3, 2))
    np.testing.assert_array_equal(y.numpy(), [1.0, 2.0])
    y.sum().backward()
    np.testing.assert_array_equal(gradient(x), [1.0, 1.0])


def test_a_part_is_updated_in_place() -> None:
    def program(x: Any, v: Any) -> Any:
        y = x * 1.0
        y[1:] += v
        y[::2] *= 3.0
        y[0] -= y[-1]
        y[y > 2.0] /= 2.0
        return y

    base, value = np.array([1.0, 2.0, 5.0]), np.array([0.5, 0.25])
    np.testing.assert_array_equal(program(variable(base), variable(value)).numpy(), program(base, value))
    ag.check_grad(program, base, value)


# --- time stepping --------------------------------------------------------------------------------------------


def test_a_time_stepping_loop_may_overwrite_its_state() -> None:
    """A wave equation with the state written in place has the gradient of one that makes new arrays."""

    def stepped(model: Any, source: Any) -> Any:
        past, now = source * 0.0, source * 1.0
        for _ in range(12):
            ahead = 2.0 * now - past
            ahead[1:-1] += model[1:-1] * (now[2:] - 2.0 * now[1:-1] + now[:-2])
            ahead[0] = 0.0
            ahead[-1] = now[-2] * 0.5
            past, now = now, ahead
        return now

    def functional(model: Any, source: Any) -> Any:
        past, now = source * 0.0, source * 1.0
        for _ in range(12):
            inner = 2.0 * now[1:-1] - past[1:-1] + model[1:-1] * (now[2:] - 2.0 * now[1:-1] + now[:-2])
            past, now = now, ag.concatenate([np.zeros(1), inner, now[-2:-1] * 0.5])
        return now

    rng = np.random.default_rng(3)
    model, source = rng.uniform(0.1, 0.4, 9), rng.normal(size=9)
    np.testing.assert_allclose(stepped(model, source), functional(variable(model), source).numpy(), rtol=1e-13)
    both = [
        ag.value_and_grad(lambda m, s, f=f: (f(m, s) ** 2).sum(), (0, 1))(model, source) for f in (stepped, functional)
    ]
    for a, b in zip(both[0][1], both[1][1], strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-11, atol=1e-13)
    ag.check_grad(stepped, model, source)


def test_a_loop_of_writes_into_one_array() -> None:
    def traces(c: Any) -> Any:
        record = ag.zeros((6, 2)) if isinstance(c, ag.Tensor) else np.zeros((6, 2))
        state = c * 1.0
        for k in range(6):
            state *= 0.9
            state[0] += 0.1 * state[1] ** 2
            record[k] = state
        return record

    c = np.array([0.5, 2.0])
    np.testing.assert_allclose(traces(variable(c)).numpy(), traces(c), rtol=1e-15)
    ag.check_grad(traces, c, order=2)


# --- leaves ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", [*OPERATORS, "[...]=", "[0]=", "[mask]=", "[0] recorded"])
def test_a_leaf_is_not_changed_while_recording(op: str) -> None:
    x = variable([[1.0, 2.0], [3.0, 4.0]])
    x.name = "model"
    (x * 1.0).sum().backward()
    held = x.grad
    with pytest.raises(RuntimeError, match=r"(?s)leaf.*no_grad"):
        if op == "[...]=":
            x[...] = 0.0
        elif op == "[0]=":
            x[0] = 0.0
        elif op == "[mask]=":
            x[x.numpy() > 1] = 0.0
        elif op == "[0] recorded":
            x[0] = x[1] * 2.0
        else:
            inplace(op, x, np.full((2, 2), 2.0))
    np.testing.assert_array_equal(x.numpy(), [[1.0, 2.0], [3.0, 4.0]])
    assert (x.requires_grad, x.is_leaf, x.name) == (True, True, "model")
    assert x.grad is held
    (x * x).sum().backward()
    np.testing.assert_array_equal(gradient(x), [[3.0, 5.0], [7.0, 9.0]])


@pytest.mark.parametrize("update", ["operator", "item", "assign", "slices"])
def test_a_leaf_is_updated_under_no_grad(update: str) -> None:
    x = variable([1.0, 2.0, 3.0])
    x.name = "model"
    handle = x
    (x * x).sum().backward()
    held = x.grad
    with ag.no_grad():
        if update == "operator":
            x -= 0.5 * x.grad
        elif update == "item":
            x[...] = 0.0
        elif update == "assign":
            x.assign(np.zeros(3))
        else:
            x[:2] -= x[:2]
            x[2] = np.float64(0.0)
    assert x is handle
    np.testing.assert_array_equal(x.numpy(), np.zeros(3))
    assert (x.requires_grad, x.is_leaf, x.name, x.dtype) == (True, True, "model", np.float64)
    assert x.grad is held
    (x * 7.0).sum().backward()
    np.testing.assert_array_equal(gradient(x), [9.0, 11.0, 13.0])


@pytest.mark.parametrize("update", ["operator", "item", "assign"])
@pytest.mark.parametrize("value", [np.array([1.0, 2.0]), np.float64(3.0), np.float32([4.0])], ids=repr)
def test_a_leaf_updated_between_forward_and_backward_keeps_the_old_point(update: str, value: Any) -> None:
    x = variable(value)
    out = (x * x * x).sum()
    with ag.no_grad():
        if update == "operator":
            x *= 100.0
        elif update == "item":
            x[...] = 100.0
        else:
            x.assign(np.full(np.shape(value), 100.0))
    out.backward()
    np.testing.assert_array_equal(gradient(x), 3 * value**2)
    x.grad = None
    (x * x).sum().backward()
    np.testing.assert_array_equal(gradient(x), 2 * x.numpy(), err_msg="a new tape sees the new point")


def test_updates_between_passes_keep_every_point_apart() -> None:
    """Several tapes at several values of one leaf, differentiated out of order, all accumulate in its `.grad`."""
    x = variable([2.0])
    outs = []
    for k in range(4):
        outs.append((x * x).sum())
        with ag.no_grad():
            x += float(k + 1)
    for k in (2, 0, 3, 1):
        outs[k].backward()
    assert gradient(x).item() == 2 * (2.0 + 3.0 + 5.0 + 8.0)
    assert x.item() == 12.0


@pytest.mark.parametrize("kind", ["array", "view", "float32", "read back"])
def test_the_array_assigned_to_a_leaf_is_the_users(kind: str) -> None:
    given = np.array([3.0, 4.0], np.float32 if kind == "float32" else np.float64)
    x = variable(given * 0.0)
    x.assign(given[:] if kind == "view" else given)
    out = (x * x).sum()
    given *= 10.0
    np.testing.assert_array_equal(x.numpy(), [3.0, 4.0])
    out.backward()
    np.testing.assert_array_equal(gradient(x), [6.0, 8.0])
    if kind == "read back":
        with ag.no_grad():
            x[0] = 7.0
        np.testing.assert_array_equal(given, [30.0, 40.0])


def test_an_op_may_return_its_workspace() -> None:
    """A forward or a rule that writes into one buffer in every call changes no earlier value and no gradient."""
    workspace = np.zeros(3)

    def doubled(x: Any) -> Any:
        return np.multiply(x, 2.0, out=workspace) if isinstance(x, np.ndarray) else x * 2.0

    name = "test_workspace"
    try:

        @ag.custom(x=lambda g: doubled(g))
        def test_workspace(x: Any, /) -> Any:
            return doubled(x)

        x = variable([1.0, 2.0, 3.0])
        first, second = test_workspace(x), test_workspace(x * 10.0)
        np.testing.assert_array_equal(first.numpy(), [2.0, 4.0, 6.0])
        (first * first + second).sum().backward()
        np.testing.assert_array_equal(gradient(x), 8.0 * np.array([1.0, 2.0, 3.0]) + 20.0)
    finally:
        registry.pop(name), functions.pop(name)


def test_assign_checks_what_it_is_given() -> None:
    x = variable([1.0, 2.0])
    for wrong in (np.ones(3), 1.0, np.ones((2, 1))):
        with pytest.raises(ValueError, match="shape"):
            x.assign(wrong)
    hidden = x * 2.0
    with pytest.raises(RuntimeError, match=r"only leaves can be assigned.*multiply 'hidden'"):
        hidden.assign(np.ones(2))
    np.testing.assert_array_equal(x.numpy(), [1.0, 2.0])


# --- buffers that change after they were used -------------------------------------------------------------------

X = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
#: A program of a tensor and of something mutable that belongs to the user.
USES: dict[str, tuple[Callable[[Any, Any], Any], Callable[[], Any]]] = {
    "x * c": (lambda x, c: x * c, lambda: np.array([2.0, 3.0, 4.0])),
    "c * x": (lambda x, c: c * x, lambda: np.array([2.0, 3.0, 4.0])),
    "x * list": (lambda x, c: x * c, lambda: [2.0, 3.0, 4.0]),
    "x * 0-d": (lambda x, c: x * c, lambda: np.array(3.0)),
    "c / x": (lambda x, c: c / x, lambda: np.array([[2.0], [3.0]])),
    "x ** c": (lambda x, c: x**c, lambda: np.array([2.0, 3.0, 4.0])),
    "np.multiply": (np.multiply, lambda: np.array([2.0, 3.0, 4.0])),
    "x @ c": (lambda x, c: x @ c, lambda: np.arange(6.0).reshape(3, 2)),
    "c @ x": (lambda x, c: c @ x, lambda: np.arange(4.0).reshape(2, 2)),
    "einsum": (lambda x, c: ag.einsum("ij,jk->", x, c), lambda: np.arange(6.0).reshape(3, 2)),
    "maximum": (ag.maximum, lambda: np.array([2.5, 3.5, 0.5])),
    "where": (lambda x, c: ag.where(c, x, x * 5.0), lambda: np.array([True, False, True])),
    "clip": (lambda x, c: ag.clip(x, c, 10.0), lambda: np.array([2.5, 3.5, 0.5])),
    "x[array]": (lambda x, c: x[c], lambda: np.array([0, 1, 1])),
    "x[list]": (lambda x, c: x[c], lambda: [0, 1, 1]),
    "x[:, array]": (lambda x, c: x[:, c], lambda: np.array([0, 1, 1])),
    "x[list of lists]": (lambda x, c: x[:, c], lambda: [[0, 1], [1, 1]]),
    "x[mask]": (lambda x, c: x[:, c], lambda: np.array([True, False, True])),
    "x[0-d:]": (lambda x, c: x[:, c:], lambda: np.array(1)),
    "x[0-d]": (lambda x, c: x[c], lambda: np.array(1)),
    "take": (lambda x, c: ag.take(x, c, axis=1), lambda: np.array([0, 1, 1])),
    "take_along_axis": (lambda x, c: ag.take_along_axis(x, c, axis=1), lambda: np.array([[0, 1], [1, 1]])),
    "repeat": (lambda x, c: ag.repeat(x, c, axis=1), lambda: np.array([1, 2, 1])),
    "repeat by a list": (lambda x, c: ag.repeat(x, c, axis=1), lambda: [1, 2, 1]),
    "pad": (lambda x, c: ag.pad(x, c, mode="edge"), lambda: [[0, 1], [1, 1]]),
    "pad by an array": (lambda x, c: ag.pad(x, c, mode="wrap"), lambda: np.array([[0, 1], [1, 1]])),
    "tile": (lambda x, c: ag.tile(x, c), lambda: [1, 2]),
    "reshape": (lambda x, c: ag.reshape(x, c), lambda: [3, 2]),
    "transpose": (lambda x, c: ag.transpose(x, c), lambda: [1, 0]),
    "concatenate": (lambda x, c: ag.concatenate([x, c]) ** 2, lambda: np.ones((1, 3))),
    "setitem value": (lambda x, c: written(x, 0, c), lambda: np.array([2.0, 3.0, 4.0])),
    "setitem index": (lambda x, c: written(x, (0, c), 9.0), lambda: np.array([0, 1, 1])),
    "setitem list": (lambda x, c: written(x, (0, c), 9.0), lambda: [0, 1, 1]),
    "setitem mask": (lambda x, c: written(x, (slice(None), c), 9.0), lambda: np.array([True, False, True])),
    "parameter": (lambda x, c: ag.leaky_relu(-x, negative_slope=c), lambda: np.array(0.5)),
    "parameter of a number": (lambda x, c: ag.leaky_relu(-x[1, 1], negative_slope=c), lambda: np.array(0.5)),
}


def written(x: Any, index: Any, value: Any) -> Any:
    y = x * x
    y[index] = value
    return y


def scramble(c: Any) -> None:
    """Other numbers in the same place: still valid as whatever `c` was."""
    if isinstance(c, ag.Tensor):
        c[...] = 1 - c.numpy() if c.dtype.kind == "i" else ~c.numpy() if c.dtype.kind == "b" else c.numpy() * -3.0
    elif isinstance(c, list):
        for k, v in enumerate(c):
            if isinstance(v, list):
                scramble(v)
            else:
                c[k] = 1 - v if isinstance(v, int) else -3.0 * v
    elif c.dtype.kind == "i":
        c[...] = 1 - c
    elif c.dtype.kind == "b":
        c[...] = ~c
    else:
        c *= -3.0


VIEWS = [
    (name, view) for name, (_, make) in USES.items() for view in (False, True) if not (view and type(make()) is list)
]


@pytest.mark.parametrize(("name", "view"), VIEWS)
def test_a_buffer_changed_after_its_use_changes_no_gradient(name: str, view: bool) -> None:
    use, make = USES[name]
    c = make()
    base = c
    if view:
        base = np.stack([c, c])
        c = base[0, ...] if c.ndim == 0 else base[0]

    def run(c: Any, change: bool) -> Any:
        x = variable(X)
        out = use(x, c)
        value = out.numpy().copy()
        if change:
            scramble(base)
        (out * np.arange(1.0, 1.0 + out.size).reshape(out.shape)).sum().backward()
        return value, gradient(x), out.numpy()

    value, expected, _ = run(c, change=False)
    again, found, later = run(c, change=True)
    np.testing.assert_array_equal(again, value)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(later, value)


TENSORS = [n for n, (_, make) in USES.items() if isinstance(make(), np.ndarray) and not n.startswith(("repeat", "pad"))]


@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("how", ["written", "moved"])
def test_a_tensor_changed_after_its_use_changes_no_gradient(name: str, how: str) -> None:
    """The same for a constant tensor that an in-place operation moves to other values."""
    use, make = USES[name]

    def run(change: bool) -> Any:
        x, c = variable(X), ag.tensor(make())
        out = use(x, c)
        if change and how == "written":
            scramble(c)
        elif change:
            c._become(ag.tensor(np.asarray(1 - c.numpy() if c.dtype.kind != "b" else ~c.numpy(), c.dtype)), "moving")
        (out * np.arange(1.0, 1.0 + out.size).reshape(out.shape)).sum().backward()
        return gradient(x)

    try:
        expected = run(change=False)
    except TypeError:
        return  # refused: then there is nothing to change
    np.testing.assert_array_equal(run(change=True), expected)


def test_the_array_a_leaf_was_made_from_is_the_users() -> None:
    for source in (np.array([1.0, 2.0]), np.array([1.0, 2.0], ">f8"), [1.0, 2.0], np.zeros((4, 2))[::2, 0]):
        values = np.array(source)
        x = variable(source)
        out = (x * x).sum()
        source[0] = 99.0  # type: ignore[index]
        out.backward()
        np.testing.assert_array_equal(gradient(x), 2 * values)
        np.testing.assert_array_equal(x.numpy(), values)


def test_arrays_handed_to_transforms_are_the_users() -> None:
    point = np.array([1.0, 2.0])
    out, pull = ag.vjp(lambda x: x**3, point)
    point *= 100.0
    cotangent = np.ones(2)
    np.testing.assert_array_equal(pull(cotangent)[0].numpy(), [3.0, 12.0])
    np.testing.assert_array_equal(out.numpy(), [1.0, 8.0])

    def selfish(x: Any) -> Any:
        point[:] = -1.0
        return (x * x).sum()

    point = np.array([1.0, 2.0])
    np.testing.assert_array_equal(ag.grad(selfish)(point).numpy(), [2.0, 4.0])


def test_the_gradient_passed_to_backward_is_the_users() -> None:
    x, y = variable([1.0, 2.0]), variable([3.0, 4.0])
    seed = np.array([1.0, 1.0])
    (x + y).backward(seed)
    seed *= 50.0
    np.testing.assert_array_equal(gradient(x), [1.0, 1.0])
    np.testing.assert_array_equal(gradient(y), [1.0, 1.0])


# --- .numpy(), detach and other aliases -----------------------------------------------------------------------------

ALIASES: dict[str, Callable[[Any], Any]] = {
    "detach": lambda t: t.detach(),
    "copy": lambda t: t.copy(),
    "clone": lambda t: t.clone(),
    "positive": lambda t: +t,
    "everything": lambda t: t[...],
    "slice": lambda t: t[0:2],
    "reversed": lambda t: t[::-1],
    "reshape": lambda t: t.reshape(4),
    "transpose": lambda t: t.T,
    "squeeze": lambda t: ag.squeeze(t),
    "expand_dims": lambda t: ag.expand_dims(t, 0),
    "moveaxis": lambda t: ag.moveaxis(t, 0, 1),
    "broadcast_to": lambda t: ag.broadcast_to(t, (3, 2, 2)),
    "split": lambda t: ag.split(t, 1)[0],
    "flip": lambda t: ag.flip(t),
    "astype": lambda t: t.astype(np.float64),
    "tensor": lambda t: ag.tensor(t.detach()),
    "numpy": lambda t: t.numpy(),
    "asarray": lambda t: np.asarray(t.detach()),
    "view of numpy": lambda t: t.numpy()[0],
    "iterate": lambda t: next(iter(t)),
}
#: Those that NumPy would hold in the same memory.
SHARED = {
    "everything", "slice", "reversed", "reshape", "transpose", "squeeze", "expand_dims", "moveaxis", "broadcast_to",
    "split", "flip", "iterate",
}  # fmt: skip
CHANGES: dict[str, Callable[[Any], Any]] = {
    "item": lambda t: t.__setitem__(Ellipsis, -9.0),
    "part": lambda t: t.__setitem__(0, -9.0),
    "operator": lambda t: t.__imul__(-9.0),
    "recorded": lambda t: t.__iadd__(variable(7.0)),
}


@pytest.mark.parametrize("alias", ALIASES)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("kind", ["constant", "leaf", "recorded"])
def test_no_write_is_seen_through_an_alias(alias: str, change: str, kind: str) -> None:
    """Tensors have value semantics: whatever was taken from one keeps its value, and no write gets back to it."""
    start = np.array([[1.0, 2.0], [3.0, 4.0]])
    t = {"constant": ag.tensor(start), "leaf": variable(start), "recorded": variable(start) * 1.0}[kind]
    other = ALIASES[alias](t)
    before = np.array(other if isinstance(other, np.ndarray) else other.numpy())

    def apply(target: Any) -> None:
        if isinstance(target, ag.Tensor) and target.is_leaf and target.requires_grad:
            with ag.no_grad():
                CHANGES[change](target)
        else:
            CHANGES[change](target)

    apply(t)
    assert t.numpy().ravel()[0] != 1.0, "the change did happen"
    np.testing.assert_array_equal(other if isinstance(other, np.ndarray) else other.numpy(), before)
    after = t.numpy().copy()
    if isinstance(other, np.ndarray):
        assert not other.flags.writeable
        with pytest.raises(ValueError, match="read-only"):
            other[...] = 0.0
    elif alias in SHARED:
        with pytest.raises(RuntimeError, match="still in use"):
            apply(other)
        np.testing.assert_array_equal(other.numpy(), before)
    else:
        apply(other)
    np.testing.assert_array_equal(t.numpy(), after)


@pytest.mark.parametrize("alias", [a for a in ALIASES if a not in ("numpy", "asarray", "view of numpy")])
def test_writes_through_aliases_leave_gradients_right(alias: str) -> None:
    """Both the source and its alias are written to after they were used; the tape holds the values of that time."""
    start = np.array([[1.0, 2.0], [3.0, 4.0]])

    def run(write: bool) -> Any:
        x = variable(start)
        t = x * 1.0
        other = ALIASES[alias](t)
        out = (t * t).sum() + (other * other * other).sum()
        if write:
            t[...] = 50.0
            with pytest.raises(RuntimeError, match="still in use") if alias in SHARED else nullcontext():
                other *= 60.0
        out.backward()
        return gradient(x)

    np.testing.assert_array_equal(run(write=True), run(write=False))


def test_numpy_is_read_only_and_cheap() -> None:
    for value in (2.0, np.float32(2.0), np.arange(3.0), np.arange(3)):
        t = ag.tensor(value)
        found = t.numpy()
        assert (found.shape, found.dtype) == (np.shape(value), np.asarray(value).dtype)
        with pytest.raises(ValueError, match="read-only"):
            found[...] = 0
    big = ag.tensor(np.zeros(1000))
    assert np.shares_memory(big.numpy(), big.numpy())


def test_what_numpy_returns_stays_read_only() -> None:
    x = variable([1.0, 2.0])
    out = (x * x).sum()
    found = x.numpy()
    with pytest.raises(ValueError, match="WRITEABLE"):
        found.flags.writeable = True
    base = found.base
    with pytest.raises((ValueError, TypeError)):
        base[0] = 9.0
    out.backward()
    np.testing.assert_array_equal(gradient(x), [2.0, 4.0])


def test_a_constant_keeps_its_name() -> None:
    t = ag.tensor([1.0, 2.0], name="porosity")
    t += 1.0
    t[0] = 5.0
    assert t.name == "porosity"


def test_an_unseen_buffer_is_written_without_a_copy() -> None:
    t = ag.tensor(np.zeros(1000))
    where = t._value.ctypes.data
    for k in range(5):
        t[k] = 1.0
    assert t._value.ctypes.data == where
    held = t.numpy()
    t[0] = 7.0
    assert held[0] == 1.0 and t.numpy()[0] == 7.0


BORROWED = """
import sys
count = sys.getrefcount

def direct():
    box = [object()]
    held = box[0]
    return count(held)

def through(function):
    box = [object()]
    held = box[0]
    return function(held)

more = through(lambda x: count(x)) - direct() + 1
sys.getrefcount = lambda x: count(x) - more

import numpy as np
import autograd_geo as ag

x = ag.tensor([1.0, 2.0], requires_grad=True)
out = (x**2).sum()
with ag.no_grad():
    x *= 100.0
out.backward()
t, u = ag.tensor([1.0, 2.0]), ag.tensor([1.0, 2.0])
other, view = t.detach(), u.numpy()
t[0] = u[0] = 9.0
space = np.zeros(2)

@ag.custom(x=lambda g: g)
def test_space(x, /):
    space[:] = x
    return space

first, second = test_space(t), test_space(t * 2.0)
print(x.grad.tolist(), other.tolist(), view.tolist(), first.tolist())
"""


def test_no_write_is_seen_where_arguments_are_borrowed() -> None:
    """From Python 3.14 on an object has one reference less while it is counted: its argument is borrowed."""
    run = [sys.executable, "-c", BORROWED]
    done = subprocess.run(run, cwd=Path(ag.__file__).parents[1], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[2.0, 4.0] [1.0, 2.0] [1.0, 2.0] [9.0, 2.0]\n", done.stderr


# --- random programs ------------------------------------------------------------------------------------------------

INDICES = [
    slice(0, 2), slice(None, None, 2), slice(3, 1, -1), slice(1, 3), slice(-2, None), np.array([0, 0]),
    np.array([2, 1]), np.array([-1, -1]), [3, 0], np.array([True, False, False, True]), np.array([[1, 2], [2, 3]])[0],
]  # fmt: skip
FUNCTIONS = [
    np.sin,
    np.tanh,
    np.square,
    np.negative,
    lambda v: v.copy(),
    lambda v: v * 0.5 + 1.0,
    lambda v: v[::-1] * 1.0,
]
registers = st.integers(0, 2)
indices = st.integers(0, len(INDICES) - 1)
factors = st.sampled_from([-1.5, -0.5, 0.25, 1.0, 2.0])
statements = st.one_of(
    st.tuples(st.just("operator"), registers, st.sampled_from("+-*"), registers, factors),
    st.tuples(st.just("number"), registers, st.sampled_from("+-*/"), factors),
    st.tuples(st.just("function"), registers, st.integers(0, len(FUNCTIONS) - 1), registers),
    st.tuples(st.just("write"), registers, indices, registers, indices, factors),
    st.tuples(st.just("write number"), registers, indices, factors),
    st.tuples(st.just("write one"), registers, st.integers(-4, 3), registers, st.integers(-4, 3)),
    st.tuples(st.just("add part"), registers, indices, registers, indices, factors),
    st.tuples(st.just("scale part"), registers, indices, factors),
    st.tuples(st.just("swap"), registers, registers),
    st.tuples(st.just("alias"), registers, registers),
)


def execute(program: list[Any], x: Any, y: Any) -> Any:
    """Run the statements on three registers: tensors or arrays, whatever x and y are."""
    r = [x.copy(), y.copy(), x * y]
    for kind, i, *rest in program:
        if kind == "operator":
            op, j, factor = rest
            r[i] = inplace(op, r[i], r[j] * factor)
        elif kind == "number":
            op, factor = rest
            r[i] = inplace(op, r[i], factor)
        elif kind == "function":
            f, j = rest
            r[i] = FUNCTIONS[f](r[j])
        elif kind == "write":
            k, j, m, factor = rest
            r[i][INDICES[k]] = r[j][INDICES[m]] * factor
        elif kind == "write number":
            k, factor = rest
            r[i][INDICES[k]] = factor
        elif kind == "write one":
            k, j, m = rest
            r[i][k] = r[j][m] * 1.0
        elif kind == "add part":
            k, j, m, factor = rest
            r[i][INDICES[k]] += r[j][INDICES[m]] * factor
        elif kind == "scale part":
            k, factor = rest
            r[i][INDICES[k]] *= factor
        elif kind == "swap":
            (j,) = rest
            r[i], r[j] = r[j], r[i]
        else:
            (j,) = rest
            r[i] = r[j]  # two names for one state: what one writes the other sees
    return np.sin(r[0]) + r[1] * 0.5 - np.tanh(r[2])


@settings(max_examples=200, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(statements, min_size=1, max_size=10))
def test_random_programs_agree_with_numpy_and_finite_differences(program: list[Any]) -> None:
    x, y = np.array([0.3, -0.7, 1.1, 0.4]), np.array([-0.2, 0.9, 0.5, -1.3])
    expected = execute(program, x, y)
    found = execute(program, variable(x), variable(y))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12, atol=1e-12)
    unrecorded = execute(program, ag.tensor(x), ag.tensor(y))
    assert not unrecorded.requires_grad
    np.testing.assert_allclose(unrecorded.numpy(), expected, rtol=1e-12, atol=1e-12)
    scale = max(1.0, float(np.max(np.abs(execute(program, x + 1e-4, y) - expected))) * 1e4)
    ag.check_grad(lambda a, b: execute(program, a, b), x, y, rtol=1e-4, atol=1e-5 * scale)
