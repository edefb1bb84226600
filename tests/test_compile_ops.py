"""Every registered op, compiled: the same numbers as eager code, two orders of derivatives, both precisions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("numba")

from op_calls import calls, differentiable, scalar_of

import autograd_geo as ag
from autograd_geo.compiler import Compiled, regions
from autograd_geo.op import Op, functions, registry

OPS = [pytest.param(op, id=name) for name, op in registry.items()]


def program(op: Op, args: list[Any], attrs: dict[str, Any]) -> Any:
    """The op, the gradient of a weighted sum of its squared result, and the gradient of that gradient's square."""
    active = differentiable(op, len(args))
    fn = scalar_of(op, args, attrs, active)

    def weighted(*xs: Any) -> Any:
        out = fn(*xs)
        return (out * out * np.arange(1.0, out.size + 1).reshape(out.shape).astype(out.dtype)).sum()

    def run(*xs: Any) -> Any:
        if not active:
            return (fn(*xs),)
        positions = tuple(range(len(active)))
        gradient = ag.grad(weighted, positions)
        slope = ag.grad(lambda *ys: sum((g * g).sum() for g in gradient(*ys)), positions)
        return fn(*xs), gradient(*xs), slope(*xs)

    return run


def flat(tree: Any) -> list[np.ndarray[Any, Any]]:
    return [x for t in tree for x in flat(t)] if isinstance(tree, tuple | list) else [tree.numpy()]


def check(op: Op, args: list[Any], attrs: dict[str, Any], dtype: Any, rtol: float) -> None:
    active = differentiable(op, len(args))
    rng = np.random.default_rng(1)
    args = [a.astype(dtype) if isinstance(a, np.ndarray) and a.dtype.kind == "f" else a for a in args]
    fn = program(op, args, attrs)
    compiled: Compiled[..., Any] = ag.compile(fn)
    first = [np.asarray(args[k], dtype) for k in active]
    other = [x * (1 + 0.01 * rng.uniform(size=x.shape)).astype(dtype) for x in first]
    for xs in (first, other):  # recorded, then replayed with other values
        expected = flat(fn(*[ag.tensor(x) for x in xs]))
        found = flat(compiled(*xs))
        for wanted, got in zip(expected, found, strict=True):
            assert got.dtype == wanted.dtype
            assert got.shape == wanted.shape
            scale = np.abs(wanted[np.isfinite(wanted)]).max(initial=0) if wanted.dtype.kind == "f" else 0.0
            np.testing.assert_allclose(got, wanted, rtol=rtol, atol=rtol * scale, err_msg=str((op.name, args, attrs)))
    assert not active or compiled.recordings == 1
    if functions[op.name].__module__.startswith("autograd_geo.") and op.name not in ("sort", "argsort"):
        steps = [s for r in compiled.recorded for s in r.program.steps]
        assert all(s.kernel is not None for s in steps), "of the library's ops only sorting is called back"


@pytest.mark.parametrize("op", OPS)
def test_compiled_is_eager(op: Op) -> None:
    found = calls(op)
    for args, attrs in found:
        check(op, args, attrs, np.float64, 1e-11)
    for args, attrs in found[1:2] or found[:1]:
        check(op, args, attrs, np.float32, 2e-4)


@pytest.mark.parametrize("op", [p for p in OPS if functions[p.values[0].name].__module__.endswith(".reduce")])
def test_row_after_row(op: Op, monkeypatch: Any) -> None:
    """Reductions over last axes that are finished row by row, as long rows are."""
    monkeypatch.setattr(regions, "LEAST_ROW", 2)
    for args, attrs in calls(op):
        check(op, args, attrs, np.float64, 1e-11)


@pytest.mark.parametrize("dtype", [np.float16, np.longdouble])
def test_dtypes_that_kernels_do_not_compute_in_are_left_to_numpy(dtype: Any) -> None:
    def fn(x: Any) -> Any:
        x, two = x * 1, ag.tensor(dtype(2.0))
        joined = ag.stack([*x] * 9)
        return (
            x,
            x.reshape(3, 1),
            two,
            ag.tensor(np.ones((2, 2), dtype)),
            two + x,
            x[1:],
            x.sum(),
            joined,
            two * dtype(3),
        )

    fast = ag.compile(fn)
    for k in range(3):
        x = np.arange(k, k + 3).astype(dtype)
        for found, wanted in zip(fast(x), fn(ag.tensor(x)), strict=True):
            assert found.dtype == wanted.dtype == dtype
            np.testing.assert_array_equal(found.numpy(), wanted.numpy())
    assert fast.recordings == 1
