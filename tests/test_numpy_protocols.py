"""NumPy's functions and operators on tensors: the same values as on arrays, recorded, or a TypeError that helps."""

from __future__ import annotations

import inspect
import math
import operator
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import autograd_geo as ag
from autograd_geo.op import apply, functions, registry

A = np.array([[0.3, 0.7, -0.4], [0.9, -0.2, 0.5]])
V = np.array([0.4, 0.6, 0.9])
HINT = r"\.numpy\(\)|\.detach\(\)|ag\.\w+|without"


def variable(value: Any) -> ag.Tensor:
    return ag.tensor(value, requires_grad=True)


def same(found: Any, expected: Any) -> None:
    """Value, shape and dtype of a tensor are those of an array, to a few units in the last place."""
    expected = np.asarray(expected)
    assert isinstance(found, ag.Tensor)
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    rtol = 1e-6 if expected.dtype == np.float32 else 1e-14
    np.testing.assert_allclose(found.numpy(), expected, rtol=rtol, atol=rtol)


# --- functions ------------------------------------------------------------------------------------------------

UNARY = (
    "negative positive abs exp expm1 log log1p log2 log10 sqrt cbrt square reciprocal sin cos tan arcsin arccos arctan "
    "sinh cosh tanh arcsinh arctanh asin acos atan asinh atanh"
).split()
BINARY = "add subtract multiply divide true_divide power maximum minimum hypot arctan2 atan2 remainder mod".split()
FUNCTIONS: dict[str, Callable[[Any], Any]] = {
    "sum": lambda x: np.sum(x),
    "sum axis": lambda x: np.sum(x, axis=0),
    "sum keepdims": lambda x: np.sum(x, axis=(0, -1), keepdims=True),
    "sum positional": lambda x: np.sum(x, 1),
    "mean": lambda x: np.mean(x, axis=1),
    "prod": lambda x: np.prod(x, axis=0),
    "max": lambda x: np.max(x, axis=1, keepdims=True),
    "min": lambda x: np.min(x),
    "var": lambda x: np.var(x, axis=0),
    "std": lambda x: np.std(x, axis=1, ddof=1),
    "var positional": lambda x: np.var(x, 0, None, None, 1),
    "sum positional keepdims": lambda x: np.sum(x, 0, None, None, True),
    "cumsum": lambda x: np.cumsum(x, axis=1),
    "cumsum of all": lambda x: np.cumsum(x),
    "norm": lambda x: np.linalg.norm(x),
    "norm of rows": lambda x: np.linalg.norm(x, axis=1),
    "norm 1 of rows": lambda x: np.linalg.norm(x, 1, axis=1),
    "norm inf of rows": lambda x: np.linalg.norm(x, np.inf, axis=0, keepdims=True),
    "matmul": lambda x: np.matmul(x, V),
    "dot": lambda x: np.dot(V, x.T),
    "outer": lambda x: np.outer(V, x),
    "tensordot": lambda x: np.tensordot(x, A, axes=([0, 1], [0, 1])),
    "tensordot of NumPy's integer": lambda x: np.tensordot(x, V, np.int64(1)),
    "einsum": lambda x: np.einsum("ij,kj->ik", x, A),
    "einsum implicit": lambda x: np.einsum("ij,j", x, V),
    "trace": lambda x: np.trace(x[:, :2]),
    "reshape": lambda x: np.reshape(x, (3, -1)),
    "ravel": lambda x: np.ravel(x),
    "transpose": lambda x: np.transpose(x),
    "transpose axes": lambda x: np.transpose(x, (1, 0)),
    "moveaxis": lambda x: np.moveaxis(x, 0, -1),
    "swapaxes": lambda x: np.swapaxes(x, 0, 1),
    "squeeze": lambda x: np.squeeze(x[:1]),
    "expand_dims": lambda x: np.expand_dims(x, (0, -1)),
    "broadcast_to": lambda x: np.broadcast_to(x, (2, 2, 3)),
    "concatenate": lambda x: np.concatenate([x, A, x], axis=1),
    "concatenate flat": lambda x: np.concatenate((x, V), axis=None),
    "stack": lambda x: np.stack([A, x], axis=-1),
    "split": lambda x: np.split(x, 3, axis=1)[1],
    "split at": lambda x: np.split(x, [1], axis=1)[1],
    "tile": lambda x: np.tile(x, (2, 1)),
    "repeat": lambda x: np.repeat(x, 2, axis=1),
    "repeat each": lambda x: np.repeat(x, [1, 0, 2], axis=1),
    "flip": lambda x: np.flip(x, axis=1),
    "roll": lambda x: np.roll(x, 2),
    "roll axes": lambda x: np.roll(x, (1, -1), axis=(0, 1)),
    "roll by a list": lambda x: np.roll(x, [1, -1], axis=(0, 1)),
    "pad": lambda x: np.pad(x, 1),
    "pad edge": lambda x: np.pad(x, ((0, 1), (2, 0)), mode="edge"),
    "pad constant": lambda x: np.pad(x, 1, constant_values=2.5),
    "diff": lambda x: np.diff(x, axis=1),
    "diff of NumPy's integer": lambda x: np.diff(x, np.int64(2), axis=np.int64(1)),
    "tril": lambda x: np.tril(x),
    "triu": lambda x: np.triu(x, 1),
    "take": lambda x: np.take(x, [0, 2, 2], axis=1),
    "take flat": lambda x: np.take(x, 4),
    "take_along_axis": lambda x: np.take_along_axis(x, np.array([[0, 0], [2, 1]]), axis=1),
    "take_along_axis, last axis": lambda x: np.take_along_axis(x, np.array([[0, 0], [2, 1]]), axis=-1),
    "take_along_axis of one row": lambda x: np.take_along_axis(x, np.array([[0, 2]]), axis=1),
    "take_along_axis to more rows": lambda x: np.take_along_axis(x[:1], np.array([[0], [2]]), axis=1),
    "where": lambda x: np.where(A > 0, x, 0.0),
    "where of a literal condition": lambda x: np.where(True, x[0], A),
    "where of literals": lambda x: np.where(False, x, 1.0),
    "where both": lambda x: np.where(A > 0, x * 2.0, x),
    "clip": lambda x: np.clip(x, -0.3, 0.6),
    "clip below": lambda x: np.clip(x, 0.0, None),
    "clip names": lambda x: np.clip(x, a_min=-0.3, a_max=np.float32(0.6)),
    "absolute": lambda x: np.absolute(x),
    "isnan": lambda x: np.isnan(x),
    "argmax": lambda x: np.argmax(x, axis=1),
    "sign": lambda x: np.sign(x),
    "float power 0": lambda x: x**0,
}


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_a_numpy_function_on_a_tensor(name: str, dtype: Any) -> None:
    call = FUNCTIONS[name]
    x = variable(A.astype(dtype))
    found = call(x)
    expected = call(A.astype(dtype))
    same(found, expected)
    if np.asarray(expected).dtype.kind != "f":
        assert not found.requires_grad
        return
    assert found.requires_grad
    ag.check_grad(lambda x: call(x) * 1.0, A)
    found.backward(np.ones(found.shape, found.dtype))
    assert x.grad is not None and (x.grad.shape, x.grad.dtype) == (A.shape, dtype)


@pytest.mark.parametrize("name", UNARY)
@pytest.mark.parametrize("value", [V, V.astype(np.float32), 0.5, np.float32(0.5)], ids=["f8", "f4", "number", "0-d f4"])
def test_a_unary_ufunc_on_a_tensor(name: str, value: Any) -> None:
    x = variable(value)
    found = getattr(np, name)(x)
    same(found, getattr(np, name)(value))
    assert found.requires_grad
    ag.check_grad(lambda x: getattr(np, name)(x), np.float64(value))


OPERANDS = {
    "array": np.array([0.5, 1.5, 2.5]),
    "column": np.array([[0.5], [1.5]]),
    "float32": np.array([0.5, 1.5, 2.5], np.float32),
    "integers": np.array([1, 2, 3]),
    "list": [0.5, 1.5, 2.5],
    "tuple": (0.5, 1.5, 2.5),
    "float64 number": np.float64(1.5),
    "float32 number": np.float32(1.5),
    "integer of NumPy": np.int64(2),
    "0-d array": np.array(1.5),
    "float": 1.5,
    "int": 2,
}
OPERATORS = {
    "+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv, "**": operator.pow,
    "%": operator.mod, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "==": operator.eq,
    "!=": operator.ne,
}  # fmt: skip


@pytest.mark.parametrize("other", OPERANDS)
@pytest.mark.parametrize("function", [*BINARY, *OPERATORS])
@pytest.mark.parametrize("tensor_first", [True, False], ids=["tensor first", "tensor second"])
def test_a_binary_function_takes_arrays_and_numbers_on_either_side(
    other: str, function: str, tensor_first: bool
) -> None:
    value, call = OPERANDS[other], OPERATORS.get(function) or getattr(np, function)
    base = np.array([0.7, 0.45, 0.9])
    x = variable(base)
    found = call(x, value) if tensor_first else call(value, x)
    array = np.asarray(value) if isinstance(value, list | tuple) else value
    same(found, call(base, array) if tensor_first else call(array, base))
    assert found.requires_grad == (function not in ("<", "<=", ">", ">=", "==", "!="))
    if found.requires_grad:
        fixed = value if isinstance(value, list | tuple) else array
        ag.check_grad(lambda x: call(x, fixed) if tensor_first else call(fixed, x * 1.0), base)


def test_functions_that_do_not_tell_their_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that NumPy writes in C do not, before NumPy 2.4."""
    signature = inspect.signature

    def silent(function: Any, **options: Any) -> inspect.Signature:
        if function in (np.where, np.concatenate, np.dot):
            raise ValueError(f"no signature found for builtin {function}")
        return signature(function, **options)

    monkeypatch.setattr(inspect, "signature", silent)
    x = variable(A)
    for call in (
        lambda x: np.where(A > 0, x, 0.0),
        lambda x: np.concatenate([x, A], axis=1),
        lambda x: np.concatenate((A, x), 0),
        lambda x: np.dot(x, V),
    ):
        same(call(x), call(A))
        assert call(x).requires_grad
    with pytest.raises(TypeError, match=HINT):
        np.concatenate([x, A], dtype=np.float32)


@pytest.mark.parametrize(
    ("subscripts", "shapes"),
    [
        ("i,i->i", [(1,), (3,)]),
        ("ii,i->i", [(3, 3), (1,)]),
        ("i,i->", [(1,), (3,)]),
        ("ij,jk->ik", [(2, 1), (3, 2)]),
    ],
)
def test_an_index_of_length_one_broadcasts_in_einsum(subscripts: str, shapes: list[tuple[int, ...]]) -> None:
    """NumPy broadcasts it; so there is a gradient, or it is refused before anything is recorded."""
    rng = np.random.default_rng(0)
    operands = [rng.normal(size=s) for s in shapes]
    try:
        found = ag.einsum(subscripts, *map(variable, operands))
    except ValueError:
        return
    same(found, np.einsum(subscripts, *operands))
    ag.check_grad(lambda *xs: ag.einsum(subscripts, *xs), *operands)


def test_matrix_products_on_either_side() -> None:
    square = np.array([[1.0, 2.0, 0.0], [0.0, 1.0, 3.0], [1.0, 1.0, 1.0]])
    x = variable(A)
    same(x @ square, A @ square)
    same(A.T @ x, A.T @ A)
    same([1.0, 2.0] @ x, [1.0, 2.0] @ A)
    (A.T @ x).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), A.sum(axis=1, keepdims=True) * np.ones((1, 3)))  # type: ignore[union-attr]


# --- ufunc methods, out= and what is not supported --------------------------------------------------------------


@pytest.mark.parametrize(
    "call",
    [
        lambda x: np.add.reduce(x), lambda x: np.add.reduce(x, axis=1), lambda x: np.add.reduce(x, axis=None),
        lambda x: np.add.reduce(x, 1), lambda x: np.add.reduce(x, axis=(0, 1), keepdims=True),
        lambda x: np.multiply.reduce(x, axis=-1), lambda x: np.maximum.reduce(x, axis=1, keepdims=True),
        lambda x: np.minimum.reduce(x), lambda x: np.add.accumulate(x), lambda x: np.add.accumulate(x, axis=1),
    ],
)  # fmt: skip
def test_ufunc_methods_that_are_recorded(call: Callable[[Any], Any]) -> None:
    same(call(variable(A)), call(A))
    ag.check_grad(call, A)


X3 = np.array([1.0, 2.0, 3.0])
UNSUPPORTED: dict[str, Callable[[Any], Any]] = {
    "np.partition": lambda x: np.partition(x, 1),
    "np.median": lambda x: np.median(x),
    "np.percentile": lambda x: np.percentile(x, 50),
    "np.interp": lambda x: np.interp(1.5, X3, x),
    "np.convolve": lambda x: np.convolve(x, X3),
    "np.fft": lambda x: np.fft.fft(x),
    "np.linalg.inv": lambda x: np.linalg.inv(x.reshape(1, 3)),
    "np.linalg.solve": lambda x: np.linalg.solve(np.eye(3), x),
    "np.where of one": lambda x: np.where(x),
    "np.floor_divide": lambda x: np.floor_divide(x, 2.0),
    "np.frexp": lambda x: np.frexp(x),
    "np.modf": lambda x: np.modf(x),
    "np.allclose": lambda x: np.allclose(x, X3),
    "np.copyto": lambda x: np.copyto(np.zeros(3), x),
    "np.save": lambda x: np.save("unused.npy", x),
    "multiply.outer": lambda x: np.multiply.outer(x, X3),
    "subtract.reduce": lambda x: np.subtract.reduce(x),
    "multiply.accumulate": lambda x: np.multiply.accumulate(x),
    "add.reduceat": lambda x: np.add.reduceat(x, [0, 1]),
    "add.at": lambda x: np.add.at(x, [0], 1.0),
    "where=": lambda x: np.add(x, 1.0, where=[True, False, True]),
    "dtype=": lambda x: np.add(x, 1.0, dtype=np.float32),
    "casting=": lambda x: np.add(x, 1.0, casting="no"),
    "order=": lambda x: np.reshape(x, (3, 1), order="F"),
    "order, positional": lambda x: np.reshape(x, (3, 1), "F"),
    "sum dtype=": lambda x: np.sum(x, dtype=np.float32),
    "sum dtype, positional": lambda x: np.sum(x, 0, np.float32),
    "sum where=": lambda x: np.sum(x, where=[True, False, True]),
    "sum initial=": lambda x: np.sum(x, initial=1.0),
    "reduce dtype=": lambda x: np.add.reduce(x, dtype=np.float32),
    "reduce initial=": lambda x: np.add.reduce(x, initial=3.0),
    "accumulate dtype=": lambda x: np.add.accumulate(x, dtype=np.float32),
    "concatenate dtype=": lambda x: np.concatenate([x, X3], dtype=np.float32),
    "take mode=": lambda x: np.take(x, [0], mode="clip"),
    "diff prepend=": lambda x: np.diff(x, prepend=0.0),
    "einsum optimize=": lambda x: np.einsum("i->", x, optimize=True),
}


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_recorded_says_what_to_do(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy has the function, we do not: a TypeError with a way on, never a detached result."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=HINT) as error:
        UNSUPPORTED[name](variable(X3))
    assert len(str(error.value)) > 40
    assert not list(tmp_path.iterdir())


OUTPUTS: dict[str, Callable[[Any, Any], Any]] = {
    "ufunc": lambda out, x: np.add(out, x, out=out),
    "positional": lambda out, x: np.sin(x, out),
    "tuple": lambda out, x: np.multiply(x, x, out=(out,)),
    "reduce": lambda out, x: np.add.reduce(x, out=out[:1].reshape(())),
    "sum": lambda out, x: np.sum(x, out=out[:1].reshape(())),
    "concatenate": lambda out, x: np.concatenate([x[:1], x[1:]], out=out),
    "clip": lambda out, x: np.clip(x, 0.0, 1.0, out=out),
    "+=": lambda out, x: operator.iadd(out, x),
    "*=": lambda out, x: operator.imul(out, x),
    "@=": lambda out, x: operator.imatmul(out, x),
    "item": lambda out, x: operator.setitem(out, 0, x[0]),
    "slice": lambda out, x: operator.setitem(out, slice(None), x),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_recorded_result_is_not_written_into_an_array(name: str) -> None:
    out, x = np.array([10.0, 20.0, 30.0]), variable(X3)
    with pytest.raises((TypeError, ValueError)) as error:
        OUTPUTS[name](out, x)
    if name != "item":  # where NumPy asks an element for a number, the message is NumPy's
        assert isinstance(error.value, TypeError)
    np.testing.assert_array_equal(out, [10.0, 20.0, 30.0])


READS: dict[str, Callable[[Any], Any]] = {
    "asarray": np.asarray,
    "array": np.array,
    "asanyarray": np.asanyarray,
    "ascontiguousarray": np.ascontiguousarray,
    "as float32": lambda x: np.asarray(x, np.float32),
    "as objects": lambda x: np.array([x, None], object),
    "array of tensors": lambda x: np.array([x, x]),
    "array of numbers": lambda x: np.array([x[0], x[1]]),
    "nested": lambda x: np.array([[1.0, 2.0, 3.0], x]),
    "fromiter": lambda x: np.fromiter(x, float),
    "float": lambda x: float(x[0]),
    "int": lambda x: int(x[0]),
    "complex": lambda x: complex(x[0]),
    "math.sin": lambda x: math.sin(x[0]),
    "math.sqrt": lambda x: math.sqrt(x[0]),
    "math.hypot": lambda x: math.hypot(x[0], x[1]),
    "math.fsum": math.fsum,
    "np.float64": lambda x: np.float64(x[0]),
    "np.vectorize": lambda x: np.vectorize(lambda v: v + 1)(x),
    "tensor of a list": lambda x: ag.tensor([x[0], x[1]]),
    "tensor of a tensor": ag.tensor,
    "parameter of a tensor": ag.Parameter,
    "index": lambda x: X3[x[0]],
    "range": lambda x: range(x[0]),
    "op on a list of tensors": lambda x: ag.sum([x[0], x[1]]),
    "product with a list of tensors": lambda x: np.ones(2) * [x[0], x[1]],
}


@pytest.mark.parametrize("name", READS)
def test_a_recorded_tensor_is_never_detached_silently(name: str) -> None:
    x = variable(X3)
    with pytest.raises((TypeError, IndexError, ValueError)):
        READS[name](x)
    (x * x).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), 2 * X3)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "name", ["asarray", "float", "math.sin", "math.hypot", "np.float64", "as float32", "array of numbers"]
)
def test_what_is_not_recorded_is_read_freely(name: str) -> None:
    expected = READS[name](X3)
    for x in (ag.tensor(X3), variable(X3).detach()):
        np.testing.assert_array_equal(READS[name](x), expected)
    x = variable(X3)
    with ag.no_grad():
        np.testing.assert_array_equal(READS[name](x), expected)


def test_comparisons_may_steer_a_program() -> None:
    x = variable(2.0)
    assert x > 1.0 and x != 3.0
    assert bool(x) and x == 2.0
    with pytest.raises(ValueError, match=r"shape \(3,\) is ambiguous"):
        bool(variable(X3) > 1.0)


@pytest.mark.parametrize("call", [operator.and_, operator.or_, np.logical_and, np.logical_or], ids=lambda c: c.__name__)
def test_masks_combine_whatever_they_are_held_in(call: Any) -> None:
    x, low, high = variable(X3), X3 > 1.5, X3 < 2.5
    for found in (call(x > 1.5, x < 2.5), call(x > 1.5, high), call(low, x < 2.5)):
        same(found, call(low, high))
    same(~(x > 1.5), ~low)


def test_what_arrays_tell_of_themselves() -> None:
    x = variable(A.astype(np.float32))
    assert (np.shape(x), np.ndim(x), np.size(x), np.size(x, 1), len(x)) == ((2, 3), 2, 6, 3, 2)
    assert np.result_type(x, 1.0) == np.float32
    assert np.result_type(x, np.float64) == np.float64
    for made, value in ((np.zeros_like(x), 0.0), (np.ones_like(x), 1.0)):
        np.testing.assert_array_equal(np.asarray(made), np.full((2, 3), value, np.float32))
        assert made.dtype == np.float32


@pytest.mark.parametrize(
    "operand",
    [
        "text", np.array(["a"]), np.array([b"a"]), np.array([None]), object(), None, {}, {1.0}, 1j, np.array([1j]),
        np.array(["2026-01-01"], "M8[D]"), np.array([1], "m8[s]"), np.ma.masked_array([1.0, 2.0, 3.0], [0, 1, 0]),
        np.zeros(1, [("a", float)]), [[1.0], [2.0, 3.0]],
    ],
    ids=lambda x: repr(x).split(" at 0x")[0],
)  # fmt: skip
@pytest.mark.parametrize("call", [operator.add, np.multiply, lambda a, b: operator.mul(b, a), ag.maximum])
def test_operands_without_meaning_are_refused(operand: Any, call: Any) -> None:
    x = variable(X3)
    with pytest.raises((TypeError, ValueError)) as error:
        call(x, operand)
    assert str(error.value)
    assert (x.grad, x.requires_grad) == (None, True)
    (x * 2.0).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), [2.0, 2.0, 2.0])  # type: ignore[union-attr]


# --- where NumPy's meaning is easily missed ----------------------------------------------------------------------

M = np.array([[1.0, -2.0], [3.0, 4.5], [0.5, 2.0]])
CUBE = np.arange(18.0).reshape(3, 3, 2)
INTEGERS = np.array([7, -7, 2**60 + 1, 0])
MEANINGS: dict[str, Callable[[Any], Any]] = {
    "matrix norm 1": lambda t: np.linalg.norm(t(M), 1),
    "matrix norm 2": lambda t: np.linalg.norm(t(M), 2),
    "matrix norm inf": lambda t: np.linalg.norm(t(M), np.inf),
    "matrix norm 2, axes": lambda t: np.linalg.norm(t(CUBE), 2, axis=(0, 1)),
    "norm 1 of a number": lambda t: np.linalg.norm(t(2.0), 1),
    "norm 1 of a cube": lambda t: np.linalg.norm(t(CUBE), 1),
    "trace of a cube": lambda t: np.trace(t(CUBE)),
    "trace of a cube 2": lambda t: np.trace(t(CUBE.T)),
    "pad with inf": lambda t: np.pad(t(M), 1, constant_values=np.inf),
    "pad with nan": lambda t: np.pad(t(M), 1, constant_values=np.nan),
    "pad with a pair": lambda t: np.pad(t(M), ((1, 1), (0, 0)), constant_values=(4.0, 6.0)),
    "pad with pairs": lambda t: np.pad(t(M), 1, constant_values=((1.0, 2.0), (3.0, 4.0))),
    "pad integers": lambda t: np.pad(t(INTEGERS), 1, constant_values=3),
    "remainder of integers": lambda t: np.remainder(t(INTEGERS), 3),
    "remainder of an infinite": lambda t: np.remainder(t(M), np.inf),
    "remainder of a negative": lambda t: np.remainder(t(M), -0.7),
    "remainder by a small": lambda t: np.remainder(t(M * 1e10), 0.1),
    "clip integers": lambda t: np.clip(t(INTEGERS), None, 3),
    "clip integers both": lambda t: np.clip(t(INTEGERS), 0, 3),
    "square of integers": lambda t: np.square(t(INTEGERS)),
    "reciprocal of integers": lambda t: np.reciprocal(t(INTEGERS[:2])),
    "invert integers": lambda t: ~t(INTEGERS),
    "and of integers": lambda t: t(INTEGERS) & 3,
    "or of integers": lambda t: t(INTEGERS) | 3,
    "np.invert": lambda t: np.invert(t(INTEGERS)),
    "and of masks": lambda t: t(M > 1) & (M < 4),
    "and of masks, reflected": lambda t: (M < 4) & t(M > 1),
    "or of masks": lambda t: np.logical_or(t(M > 1), M < 0),
    "not of a mask": lambda t: ~t(M > 1),
    "where of a literal": lambda t: np.where(True, t(M[0]), M),
    "where of a literal and an int": lambda t: np.where(False, t(M), 1),
    "where of a literal and integers": lambda t: np.where(True, t(np.array([1, 2])), 0.5),
    "roll an axis too far": lambda t: np.roll(t(M), 1, axis=2),
    "roll a negative axis too far": lambda t: np.roll(t(M), 1, axis=-3),
    "roll a tuple": lambda t: np.roll(t(M[0]), 1, axis=(0,)),
    "roll a number": lambda t: np.roll(t(2.0), 1),
    "roll an axis of a number": lambda t: np.roll(t(2.0), 1, axis=0),
    "transpose too far": lambda t: np.transpose(t(M), (2, 3)),
    "transpose twice the same": lambda t: np.transpose(t(M), (0, 0)),
    "transpose a number": lambda t: np.transpose(t(2.0), (0,)),
    "swapaxes too far": lambda t: np.swapaxes(t(M), 0, 2),
    "moveaxis too far": lambda t: np.moveaxis(t(M), 0, 2),
    "sum too far": lambda t: np.sum(t(M), axis=2),
    "sum of an axis twice": lambda t: np.sum(t(M), axis=(0, 0)),
    "split too far": lambda t: np.split(t(M), 2, axis=2),
    "split unevenly": lambda t: np.split(t(M), 2),
    "take out of range": lambda t: np.take(t(M), 9),
    "take negative": lambda t: np.take(t(M), -1),
    "index out of range": lambda t: t(M)[5],
    "too many indices": lambda t: t(M)[0, 0, 0],
    "float index": lambda t: t(M)[1.0],
    "mean of integers": lambda t: np.mean(t(np.array([1, 2, 4]))),
    "mean of booleans": lambda t: np.mean(t(M > 0)),
    "sum of small integers": lambda t: np.sum(t(np.full(300, 200, np.uint8))),
    "prod of small integers": lambda t: np.prod(t(np.full(3, 100, np.int8))),
    "trace of small integers": lambda t: np.trace(t(np.full((3, 3), 100, np.uint8))),
    "max of nothing": lambda t: np.max(t(np.zeros(0))),
    "sum of nothing": lambda t: np.sum(t(np.zeros((0, 3))), axis=0),
    "prod of nothing": lambda t: np.prod(t(np.zeros((0, 3))), axis=0),
    "negative of booleans": lambda t: -t(M > 0),
    "subtract booleans": lambda t: t(M > 0) - t(M > 1),
    "sign of booleans": lambda t: np.sign(t(M > 0)),
    "add booleans": lambda t: t(M > 0) + t(M > 1),
    "integers to a negative power": lambda t: t(np.array([2, 3])) ** -1,
    "zero to the zero": lambda t: t(np.zeros(2)) ** 0,
    "matmul of wrong shapes": lambda t: np.matmul(t(M), M),
    "matmul with a number": lambda t: np.matmul(t(M), 2.0),
    "dot with a number": lambda t: np.dot(t(M), 2.0),
    "concatenate wrong shapes": lambda t: np.concatenate([t(M), CUBE]),
    "concatenate nothing": lambda t: np.concatenate([t(np.zeros(0)), M[0]]),
    "broadcast that does not": lambda t: t(M) + np.ones(4),
    "broadcast_to smaller": lambda t: np.broadcast_to(t(M), (2,)),
    "broadcast_to by NumPy's integer": lambda t: np.broadcast_to(t(2.0), np.int64(3)),
    "reshape that does not fit": lambda t: np.reshape(t(M), (4, 2)),
    "squeeze what is not one": lambda t: np.squeeze(t(M), axis=0),
    "maximum of NaN": lambda t: np.maximum(t(np.array([1.0, np.nan])), np.array([np.nan, 1.0])),
    "maximum with an int": lambda t: np.maximum(t(2.0), 3),
    "minimum with an int": lambda t: np.minimum(t(2.0), 1),
    "clip a number by ints": lambda t: np.clip(t(2.0), 0, 1),
    "diff more than there is": lambda t: np.diff(t(M), 4, axis=0),
    "diff nothing": lambda t: np.diff(t(M), 0),
    "cumsum of a number": lambda t: np.cumsum(t(2.0)),
    "std of one": lambda t: np.std(t(np.array([3.0]))),
    "logaddexp": lambda t: np.logaddexp(t(M), 0.0),
    "sum of many halves": lambda t: np.sum(t(np.full(7000, 1.0, np.float16))),
    "mean of many halves": lambda t: np.mean(t(np.full(70000, 10.0, np.float16))),
    "variance of many halves": lambda t: np.var(t(np.tile(np.float16([1.0, 3.0]), 40000))),
    "take by floats": lambda t: np.take(t(M), np.array([0.9, 1.7])),
    "index by an empty list": lambda t: t(M)[[]],
    "matmul of three axes": lambda t: np.matmul(t(CUBE), CUBE.swapaxes(1, 2)),
    "dot of three axes": lambda t: np.dot(t(CUBE), CUBE.swapaxes(1, 2)),
    "outer of matrices": lambda t: np.outer(t(M), M[0]),
    "tensordot of nothing": lambda t: np.tensordot(t(M), M, 0),
    "einsum that broadcasts": lambda t: np.einsum("i,i->i", t(np.ones(1)), M[:, 0]),
    "einsum of too few": lambda t: np.einsum("ij,jk", t(M)),
    "flip too far": lambda t: np.flip(t(M), 2),
    "expand_dims too far": lambda t: np.expand_dims(t(M), 5),
    "expand_dims twice": lambda t: np.expand_dims(t(M), (0, 0)),
    "stack too far": lambda t: np.stack([t(M), M], axis=4),
    "cumsum too far": lambda t: np.cumsum(t(M), axis=2),
    "argmax of nothing": lambda t: np.argmax(t(np.zeros(0))),
    "tril of a vector": lambda t: np.tril(t(M[0])),
    "repeat too few": lambda t: np.repeat(t(M), [1, 2], axis=0),
    "repeat negative": lambda t: np.repeat(t(M), -1),
    "tile nothing": lambda t: np.tile(t(M), 0),
    "take_along_axis of all": lambda t: np.take_along_axis(t(M), np.array([0, 5]), axis=None),
    "power of booleans": lambda t: t(M) ** (M > 1),
    "multiply by booleans": lambda t: t(M) * (M > 1),
}  # fmt: skip


REFUSAL = r"not recorded|not supported|not built in|does not take|use |Use |instead"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", MEANINGS)
def test_numpys_meaning_or_none(name: str) -> None:
    """The same value and dtype, or a refusal that says what to do; where NumPy refuses, so do we."""
    call = MEANINGS[name]
    try:
        expected = call(np.asarray)
    except (TypeError, ValueError, IndexError):
        with pytest.raises((TypeError, ValueError, IndexError)) as ours:
            call(ag.tensor)
        assert len(str(ours.value)) > 10
        return
    try:
        found = call(ag.tensor)
    except (TypeError, ValueError) as refusal:
        if re.search(REFUSAL, str(refusal)) is None:
            raise
        return
    same(found, expected)


@pytest.mark.parametrize(
    "name",
    [
        "pad with inf", "pad with nan", "pad with a pair", "where of a literal", "roll a tuple", "take negative",
        "zero to the zero", "diff more than there is", "diff nothing", "cumsum of a number", "prod of nothing",
        "maximum with an int", "minimum with an int", "clip a number by ints", "remainder of a negative",
    ],
)  # fmt: skip
def test_numpys_meaning_has_a_gradient(name: str) -> None:
    """What works forward works backward too, and keeps its shape; there is no other error to run into."""
    leaves = []

    def leaf(value: Any) -> Any:
        leaves.append(variable(value))
        return leaves[-1]

    out = MEANINGS[name](leaf)
    out.backward(np.ones(out.shape))
    assert leaves
    for x in leaves:
        assert x.grad is None or (x.grad.shape == x.shape and np.all(np.isfinite(x.grad.numpy())))


# --- promotion ------------------------------------------------------------------------------------------------------

KINDS: dict[str, Any] = {
    "f8": np.array([1.5, 2.5]),
    "f4": np.array([1.5, 2.5], np.float32),
    "i8": np.array([1, 2]),
    "i4": np.array([1, 2], np.int32),
    "u1": np.array([1, 2], np.uint8),
    "?": np.array([True, False]),
    "0-d f8": np.array(1.5),
    "0-d f4": np.array(1.5, np.float32),
    "0-d i8": np.array(2),
    "f8 number": np.float64(1.5),
    "f4 number": np.float32(1.5),
    "i8 number": np.int64(2),
    "float": 1.5,
    "int": 2,
    "bool": True,
}
PROMOTING: dict[str, Callable[[Any, Any], Any]] = {
    "add": operator.add,
    "multiply": operator.mul,
    "divide": operator.truediv,
    "power": operator.pow,
    "maximum": np.maximum,
    "hypot": np.hypot,
    "where": lambda a, b: np.where(np.array([True, False]), a, b),
    "less": operator.lt,
    "equal": np.equal,
    "logical_and": np.logical_and,
}


LITERALS = ("float", "int", "bool")


#: Before NumPy 2.3 `array ** number` went its own way around promotion, and takes an integer tensor for a number.
ODD_POWERS = np.lib.NumpyVersion(np.__version__) < "2.3.0"


@pytest.mark.filterwarnings("ignore:.* encountered in divide:RuntimeWarning")
@pytest.mark.parametrize("function", [f for f in PROMOTING if f != "power" or not ODD_POWERS])
@pytest.mark.parametrize("first", [k for k in KINDS if k not in LITERALS])
def test_promotion_is_numpys(function: str, first: str) -> None:
    """With a literal, an array or a tensor on the other side, on either side."""
    call, a = PROMOTING[function], KINDS[first]
    for second, b in KINDS.items():
        found = {(1, 0): (ag.tensor(a), b), (0, 1): (b, ag.tensor(a))}
        if second not in LITERALS:
            found |= {(1, 2): (ag.tensor(a), ag.tensor(b)), (0, 2): (a, ag.tensor(b))}
        for key, operands in found.items():
            expected = np.asarray(call(b, a) if key == (0, 1) else call(a, b))
            t = call(*operands)
            assert (t.shape, t.dtype) == (expected.shape, expected.dtype), (second, key)
            np.testing.assert_allclose(t.numpy(), expected, rtol=1e-6, err_msg=str((second, key)))


@pytest.mark.parametrize("first", ["f8", "f4", "0-d f8", "0-d f4"])
@pytest.mark.parametrize("function", ["add", "multiply", "divide", "power", "maximum", "hypot", "where"])
def test_gradients_come_back_in_the_leafs_dtype(function: str, first: str) -> None:
    for second, b in KINDS.items():
        if second in ("bool", "?"):
            continue
        floating = np.asarray(b).dtype.kind == "f" and second != "float"
        x, y = variable(KINDS[first]), variable(b) if floating else b
        out = PROMOTING[function](x, y)
        out.backward(np.ones(out.shape, out.dtype))
        for leaf in (x, y) if floating else (x,):
            assert leaf.grad is not None
            assert (leaf.grad.shape, leaf.grad.dtype) == (leaf.shape, leaf.dtype), second


INTEGERS_OF_A_KIND: dict[str, list[int]] = {
    "u1": [200, 3, 254], "i1": [100, -100, 3], "i2": [300, -300, 7], "u2": [60_000, 300, 1], "i4": [70_000, -70_000, 5],
    "u4": [70_000, 1, 4_000_000_000], "i8": [2**40, -(2**40), 3], "?": [1, 0, 1],
}  # fmt: skip
SEVERAL = [
    (name, k)
    for name, op in registry.items()
    if op.family == "pointwise" and len(op.inputs) > 1
    for k in range(len(op.inputs))
    if op.rules[k] is not None
]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize(("name", "k"), SEVERAL)
def test_integers_beside_a_recorded_tensor_do_not_overflow(name: str, k: int) -> None:
    """A derivative is computed in floating point, also where it is made of integers of eight or sixteen bits."""
    op = registry[name]

    def slope(others: Any) -> Any:
        x = variable([0.7, 0.4, 1.3])
        apply(op, [x if i == k else others for i in range(len(op.inputs))], dict(op.attrs)).backward(np.ones(3))
        return x.grad.numpy()  # type: ignore[union-attr]

    for kind, values in INTEGERS_OF_A_KIND.items():
        numbers = np.array(values).astype(kind)
        expected = slope(numbers.astype(float))
        for others in (numbers, ag.tensor(numbers)):
            np.testing.assert_allclose(slope(others), expected, rtol=1e-12, err_msg=kind)


def test_a_declared_derivative_is_in_floating_point_too() -> None:
    saved = dict(registry), dict(functions)
    try:
        op = ag.pointwise("test_decay(x, r) = x / r / r", x="1 / (r * r)", r="-2 * x / (r * r * r)")
        x, r = variable([1.0, 2.0]), np.array([300, -300], np.int16)
        op(x, r).sum().backward()
        np.testing.assert_allclose(x.grad.numpy(), [1 / 90_000] * 2)  # type: ignore[union-attr]
        np.testing.assert_allclose(ag.jvp(lambda t: op(t, r), (x,), (np.ones(2),))[1].numpy(), [1 / 90_000] * 2)
        np.testing.assert_allclose(
            ag.grad(lambda t: ag.grad(lambda s: op(s, r).sum())(t * t).sum())(x).numpy(), [0.0, 0.0]
        )
    finally:
        for table, before in zip((registry, functions), saved, strict=True):
            for name in set(table) - set(before):
                del table[name]  # type: ignore[attr-defined]


def test_the_mean_of_many_halves_has_a_gradient() -> None:
    x = variable(np.full(70_000, 10.0, np.float16))
    x.mean().backward()
    assert x.grad is not None and x.grad.dtype == np.float16
    assert x.grad.numpy()[0] == np.float16(1 / 70_000)


def test_float32_networks_stay_float32() -> None:
    w, x = variable(np.ones((3, 2), np.float32)), np.ones((5, 3), np.float32)
    out = ag.tanh(x @ w * 0.5 + 1) ** 2
    out = (ag.softmax(out) - np.float32(0.5)).clip(-1, 1).mean(axis=0) / 3
    assert out.dtype == np.float32
    assert (ag.where(out > 0, out, 0.0) * 2.0).dtype == np.float32
    out.sum().backward()
    assert w.grad is not None and w.grad.dtype == np.float32


# --- arrays of every make ----------------------------------------------------------------------------------------


class Labelled(np.ndarray):  # type: ignore[type-arg]
    """A subclass of arrays."""


def made(kind: str, tmp_path: Path) -> Any:
    base = np.arange(6.0).reshape(2, 3) + 0.5
    if kind == "memmap":
        mapped = np.memmap(tmp_path / "m", dtype=float, mode="w+", shape=(2, 3))
        mapped[...] = base
        return mapped
    if kind == "read-only":
        base.flags.writeable = False
        return base
    wide = np.zeros((4, 6))
    wide[::2, ::-2] = base
    return {
        "Fortran": lambda: np.asfortranarray(base),
        "negative strides": lambda: base[::-1, ::-1].copy()[::-1, ::-1],
        "steps": lambda: wide[::2, ::-2],
        "transposed": lambda: base.T.copy().T,
        "zero strides": lambda: np.broadcast_to(np.float64(1.5), (2, 3)),
        "big-endian": lambda: base.astype(">f8"),
        "little-endian": lambda: base.astype("<f8"),
        "big-endian float32": lambda: base.astype(">f4"),
        "half": lambda: base.astype(np.float16),
        "subclass": lambda: base.view(Labelled),
        "matrix of a list": lambda: base.tolist(),
        "list of arrays": lambda: list(base),
        "0-d": lambda: np.array(1.5),
        "empty": lambda: np.zeros((0, 3)),
        "unaligned": lambda: np.frombuffer(b"\0" + base.tobytes(), np.uint8)[1:].view(float).reshape(2, 3),
    }[kind]()


MADE = [
    "Fortran", "negative strides", "steps", "transposed", "zero strides", "big-endian", "little-endian",
    "big-endian float32", "half", "subclass", "matrix of a list", "list of arrays", "0-d", "empty", "unaligned",
    "memmap", "read-only",
]  # fmt: skip
PROGRAMS: dict[str, Callable[[Any], Any]] = {
    "pointwise": lambda x: np.exp(x * 0.5) - x**2,
    "sum": lambda x: np.sum(x * x, axis=-1, keepdims=True) if np.ndim(x) else x * x,
    "cumsum": lambda x: np.cumsum(x) * 2.0,
    "reshape": lambda x: np.ravel(x) * np.arange(np.size(x)),
    "transpose": lambda x: np.transpose(x) * 2.0,
    "product": lambda x: x @ np.ones(3) if np.ndim(x) else x * 3.0,
    "max": lambda x: np.max(x, axis=0) if np.size(x) and np.ndim(x) else x * 1.0,
    "index": lambda x: x[..., ::-1] if np.ndim(x) else x[...] * 1.0,
    "concatenate": lambda x: np.concatenate([np.ravel(x), np.ravel(x)]),
    "broadcast": lambda x: x + np.ones((2, 1, 1)),
}


@pytest.mark.parametrize("kind", MADE)
@pytest.mark.parametrize("program", PROGRAMS)
def test_arrays_of_every_make(kind: str, program: str, tmp_path: Path) -> None:
    source, call = made(kind, tmp_path), PROGRAMS[program]
    plain = np.array(source).astype(np.array(source).dtype.newbyteorder("="))
    x = variable(source)
    assert x.dtype == plain.dtype and x.dtype.isnative
    np.testing.assert_array_equal(x.numpy(), plain)
    out = call(x)
    expected = call(plain)
    rtol = {2: 1e-2, 4: 1e-5}.get(plain.dtype.itemsize, 1e-14)
    np.testing.assert_allclose(out.numpy(), expected, rtol=rtol, atol=rtol)
    assert (out.shape, out.dtype) == (np.shape(expected), np.asarray(expected).dtype)
    out.backward(np.ones(out.shape, out.dtype))
    assert x.grad is not None and (x.grad.shape, x.grad.dtype) == (plain.shape, plain.dtype)
    reference = variable(np.ascontiguousarray(plain, float).reshape(plain.shape))
    call(reference).backward(np.ones(out.shape))
    np.testing.assert_allclose(x.grad.numpy(), reference.grad.numpy(), rtol=rtol * 10, atol=rtol)  # type: ignore[union-attr]


@pytest.mark.parametrize("kind", [k for k in MADE if k not in ("0-d", "empty")])
def test_constants_of_every_make(kind: str, tmp_path: Path) -> None:
    source = made(kind, tmp_path)
    plain = np.asarray(source).astype(float)
    x = variable(np.ones((2, 3)))
    for out in (x * source, np.multiply(np.asarray(source), x), ag.add(source, x) * 1.0):
        assert out.dtype == np.float64
    (x * source).sum().backward()
    np.testing.assert_array_equal(x.grad.numpy(), plain)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    "call", [ag.mean, ag.sum, ag.var, ag.std, ag.prod, ag.max, ag.norm, ag.logsumexp, ag.exp, ag.square]
)
@pytest.mark.parametrize("value", [2.0, 2, [1.0, 2.0], (1, 3), np.float32(2.0), np.arange(3)], ids=repr)
def test_functions_take_what_numpy_takes(call: Any, value: Any) -> None:
    """Plain numbers, lists and integers, without a tensor around them."""
    found = call(value)
    assert isinstance(found, ag.Tensor)
    same(call(ag.tensor(np.asarray(value))), found.numpy())


def test_results_are_tensors_whatever_went_in() -> None:
    for found in (
        ag.split(X3, 3)[0],
        ag.split([1.0, 2.0], 2)[0],
        ag.take([1.0, 2.0], 1),
        ag.clip(X3, 0, 1),
        ag.trace(M @ M.T),
    ):
        assert isinstance(found, ag.Tensor)


def test_older_names_of_extremes() -> None:
    x = ag.tensor([[3.0, 1.0], [2.0, 5.0]], requires_grad=True)
    (np.amin(x, axis=0) + np.amax(x)).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0.0, 1.0], [1.0, 2.0]]
