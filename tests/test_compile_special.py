"""Every registered op, compiled, at signed zeros, subnormals, huge numbers, infinities and NaN."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from op_calls import calls, differentiable, lattice, scalar_of

import autograd_geo as ag
from autograd_geo.op import Op, registry

#: Which of two equal zeros NumPy's maximum takes differs from processor to processor.
_EITHER_ZERO = {"maximum", "minimum", "relu", "clip"}


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


class Call:
    """One op at special numbers: its value and, as a function of the inputs that gradients flow to, its gradient."""

    def __init__(self, op: Op, args: list[Any], attrs: dict[str, Any]) -> None:
        self.op, self.args, self.attrs = op, args, attrs
        active = differentiable(op, len(args))
        self.fn = scalar_of(op, args, attrs, active)
        self.given = [args[k] for k in active]
        self.zeros = (op.family == "pointwise" or op.moves) and op.name not in _EITHER_ZERO

    def __call__(self, *xs: Any) -> list[Any]:
        if not xs:
            return [self.fn()]
        return [self.fn(*xs), *ag.grad(lambda *xs: self.fn(*xs).sum(), tuple(range(len(xs))))(*xs)]

    def check(self, found: Any, dtype: Any) -> None:
        """Compare results with those of eager code."""
        rtol = 1e-12 if dtype == np.float64 else 1e-5
        atol = 2 * np.finfo(dtype).smallest_subnormal if self.op.family == "pointwise" else rtol  # differences of sums

        def where(wrong: Any) -> str:
            args = [a[wrong][:9] if np.shape(a) == wrong.shape else a for a in self.args]
            return f"{self.op.name} of {args}, {self.attrs}"

        for k, (f, e) in enumerate(zip(found, self(*map(ag.tensor, self.given)), strict=True)):
            agree(f, e, where, self.zeros and k == 0, rtol, atol)


POINTWISE = [op for op in registry.values() if op.family == "pointwise"]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("first", range(0, len(POINTWISE), 8))
def test_special_values_of_pointwise_ops(first: int, dtype: Any) -> None:
    """Several ops in one function: kernels take long to compile."""
    several = [Call(op, *case) for op in POINTWISE[first : first + 8] for case in special(op, dtype)]
    results = replayed(lambda given: [call(*xs) for call, xs in zip(several, given, strict=True)],
                       [call.given for call in several])  # fmt: skip
    for call, found in zip(several, results, strict=True):
        call.check(found, dtype)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("op", [op for op in registry.values() if op.family != "pointwise"], ids=lambda op: op.name)
def test_special_values(op: Op) -> None:
    for case in special(op, np.float64):
        call = Call(op, *case)
        call.check(replayed(call, *call.given), np.float64)


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
