"""Every registered op, compiled, at signed zeros, subnormals, huge numbers, infinities and NaN."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from test_ops import calls, differentiable, scalar_of

import autograd_geo as ag
from autograd_geo.op import Op, registry

OPS = [pytest.param(op, id=name) for name, op in registry.items()]
#: Which of two equal zeros NumPy's maximum takes differs from processor to processor.
_EITHER_ZERO = {"maximum", "minimum", "relu", "clip"}


def lattice(dtype: Any) -> np.ndarray[Any, Any]:
    info = np.finfo(dtype)
    sizes = np.array([0, info.smallest_subnormal, 0.5, 1, 2, info.max / 2, np.inf], dtype)
    return np.concatenate([sizes, -sizes, np.array([np.nan], dtype)])


def special(op: Op, dtype: Any) -> list[tuple[list[Any], dict[str, Any]]]:
    """Arguments for an op that are special numbers: all combinations if it is pointwise, else draws."""
    values = lattice(dtype)
    if op.family == "pointwise":
        found = [np.array([False, True]) if x == "condition" else values for x in op.inputs]
        return [([np.array(x) for x in zip(*product(*found), strict=True)], dict(op.attrs))]
    rng = np.random.default_rng(0)
    multiplied = 2 if op.family == "multilinear" else 9  # more factors: which come first is not defined
    values = values[(np.abs(values) < 10) | ~np.isfinite(values)]  # sums of huge numbers depend on their order
    return [
        ([rng.choice(values, a.shape) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args], attrs)
        for args, attrs in calls(op)
        if len(args) <= multiplied
        for _ in range(3)
    ]


def replayed(fn: Any, *xs: Any) -> Any:
    """What the compiled function returns when it no longer records."""
    compiled = ag.compile(fn)
    compiled(*xs)
    return compiled(*xs)


def agree(found: Any, expected: Any, where: Any, zeros: bool, rtol: float, atol: float) -> None:
    """Equal shapes, dtypes and values, NaNs at the same places; signs of zeros too if `zeros`."""
    found, expected = found.numpy(), expected.numpy()
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype), where
    wrong = ~np.isclose(found, expected, rtol, atol, equal_nan=True)
    if zeros and expected.dtype.kind == "f":
        wrong |= (expected == 0) & (found == 0) & (np.signbit(found) != np.signbit(expected))
    assert not wrong.any(), f"{where(wrong)}: {found[wrong][:9]}, not {expected[wrong][:9]}"


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("op", OPS)
def test_special_values(op: Op, dtype: Any) -> None:
    rtol = 1e-12 if dtype == np.float64 else 1e-5
    atol = 2 * np.finfo(dtype).smallest_subnormal if op.family == "pointwise" else rtol  # differences of sums
    zeros = (op.family == "pointwise" or op.moves) and op.name not in _EITHER_ZERO
    for args, attrs in special(op, dtype):
        active = differentiable(op, len(args))
        fn = scalar_of(op, args, attrs, active)
        xs = [args[k] for k in active]

        def where(wrong: Any, args: Any = args, attrs: Any = attrs) -> str:
            return f"{op.name} of {[a[wrong][:9] if np.shape(a) == wrong.shape else a for a in args]}, {attrs}"

        agree(replayed(fn, *xs), fn(*map(ag.tensor, xs)), where, zeros, rtol, atol)
        if active:
            gradient = ag.grad(lambda *xs, fn=fn: fn(*xs).sum(), tuple(range(len(xs))))
            for found, expected in zip(replayed(gradient, *xs), gradient(*map(ag.tensor, xs)), strict=True):
                agree(found, expected, where, False, rtol, atol)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("exponent", [0.5, 1.5, -0.5, -1.0, 2, 3.0, -2.0, 0, ag.tensor(0.5)], ids=str)
@pytest.mark.parametrize("shape", [(15,), (1,), ()])
def test_special_powers(shape: tuple[int, ...], exponent: Any, dtype: Any) -> None:
    """NumPy takes the square root where one exponent 0.5 is for a whole array; it differs at -0 and -inf."""

    def power(x: Any, y: Any) -> Any:
        return x**y

    def slope(x: Any, y: Any) -> Any:
        return ag.grad(lambda x: (x**y).sum())(x)

    values = [lattice(dtype)] if shape == (15,) else [np.full(shape, v) for v in lattice(dtype)]
    for fn in (power, slope):
        whole = ag.compile(lambda x, fn=fn: fn(x, exponent))
        passed = ag.compile(fn)
        for x in [values[0], *values]:  # recorded, then replayed
            expected = fn(ag.tensor(x), exponent)
            for found in (whole(x), passed(x, exponent)):
                where = f"{fn.__name__} {x} {exponent}"
                agree(found, expected, lambda wrong, where=where: where, fn is power, 1e-5, 2 * np.finfo(dtype).tiny)
